"""Drops of a score by kind and layer as a heatmap, with a dot where a pair can be reused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from prrmse.names import KINDS

COLOURS = "rocket_r"


def drop_heatmap(ax: Axes, rows: pd.DataFrame, largest: float, tick_every: int = 1) -> ScalarMappable:
    """Draw one heatmap: a row for each kind that occurs, a column for each layer number.

    Args:
        ax: where.
        rows: kind, layer, drop, reusable (bool), one row per pair; empty cells are pairs that do not exist.
        largest: drop at the end of the colour scale, which starts at 0.
        tick_every: label every n-th layer.

    Returns:
        The colours, for a colour bar.
    """
    drops = rows.pivot_table(index="kind", columns="layer", values="drop")
    drops = drops.reindex([kind for kind in KINDS if kind in drops.index])
    scale = Normalize(0, largest)
    sns.heatmap(drops, ax=ax, cmap=COLOURS, norm=scale, cbar=False, linewidths=0.3, linecolor="white")
    good = rows[rows["reusable"].astype(bool)]
    ax.scatter(
        drops.columns.get_indexer(pd.Index(good["layer"])) + 0.5,
        drops.index.get_indexer(pd.Index(good["kind"])) + 0.5,
        s=4,
        color="teal",
    )
    ax.set_xticks(np.arange(0, drops.shape[1], tick_every) + 0.5, drops.columns[::tick_every].astype(str), rotation=0)
    ax.set_yticks(np.arange(len(drops)) + 0.5, drops.index, rotation=0)
    ax.tick_params(length=0)
    ax.set(xlabel="", ylabel="")
    return ScalarMappable(scale, COLOURS)
