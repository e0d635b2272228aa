"""The figures of the command line: distances of two checkpoints, and one sweep."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prrmse.names import KINDS

NAMES = {
    "W": "weight of convolution (W)",
    "B": "bias of convolution (B)",
    "RM": "running mean (RM)",
    "RV": "running variance (RV)",
    "RW": "weight of normalisation (RW)",
    "RB": "bias of normalisation (RB)",
}


def distances_by_layer(distances: pd.DataFrame, path: str | Path) -> None:
    """Relative RMSE and cosine of every pair, a panel for each kind."""
    kinds = [kind for kind in KINDS if kind in set(distances["kind"])]
    figure = Figure(figsize=(7.5, 0.4 + 1.6 * -(-len(kinds) // 2)), layout="constrained")
    axes = figure.subplots(-(-len(kinds) // 2), 2, squeeze=False).ravel()
    for ax in axes[len(kinds) :]:
        ax.set_axis_off()
    for ax, kind in zip(axes, kinds, strict=False):
        rows = distances[distances["kind"] == kind]
        for column, label in (("rmse_relative", "relative RMSE"), ("cosine", "cosine")):
            ax.plot(rows["layer"], rows[column], marker="o", markersize=3, linewidth=1, label=label)
        ax.set_title(NAMES[kind], fontsize=9)
        ax.set_ylim(-0.1 if (rows["cosine"] >= -0.1).all() else -1.05, 1.1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("layer (number of the kind)", fontsize=9)
    sns.despine(figure)
    _save(figure, path)


def drops_by_layer(drops: pd.DataFrame, tolerance: float, path: str | Path) -> None:
    """The loss of the score for every kind (row) and layer (column); a dot where it is within the tolerance.

    Args:
        drops: kind, layer, drop.
        tolerance: as in `prrmse.api.advise`.
        path: of the image.
    """
    wide = drops.pivot_table(index="kind", columns="layer", values="drop").reindex(
        [k for k in KINDS if k in set(drops["kind"])]
    )
    figure = Figure(figsize=(max(4.0, 1.6 + 0.24 * wide.shape[1]), 0.9 + 0.33 * len(wide)), layout="constrained")
    ax = figure.subplots()
    dots = (wide <= tolerance).map(lambda fits: "•" if fits else "").where(wide.notna(), "")
    largest = max(4 * tolerance, 1e-6)
    sns.heatmap(wide, ax=ax, cmap="rocket_r", vmin=0, vmax=largest, annot=dots, fmt="", linewidths=0.4,
                cbar_kws={"label": "loss of Dice", "extend": "max"}, annot_kws={"color": "0.35"})  # fmt: skip
    ax.set(xlabel="layer (number of the kind)", ylabel="", title=f"• within the tolerance of {tolerance:g}")
    ax.tick_params(axis="both", labelsize=7, rotation=0, length=0)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
