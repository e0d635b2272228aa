"""The figures of the command line: distances of two checkpoints, and one sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prrmse.figures.heatmap import drop_heatmap
from prrmse.files import atomic
from prrmse.names import KIND_NAMES, KINDS


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
        ax.set_title(KIND_NAMES[kind], fontsize=9)
        ax.set_ylim(-0.1 if (rows["cosine"] >= -0.1).all() else -1.05, 1.1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes[0].legend(fontsize=7, frameon=False)
    figure.supxlabel("layer (numbered within each kind)", fontsize=9)
    sns.despine(figure)
    _save(figure, path)


def drops_by_layer(drops: pd.DataFrame, tolerance: float, path: str | Path) -> None:
    """Drop of the score for every kind (row) and layer (column); a dot where it is within the tolerance.

    Args:
        drops: kind, layer, drop.
        tolerance: as in `prrmse.api.advise`.
        path: of the image; its ending chooses the format.
    """
    rows, columns = drops["kind"].nunique(), drops["layer"].nunique()
    figure = Figure(figsize=(max(4.0, 1.6 + 0.24 * columns), 0.9 + 0.33 * rows), layout="constrained")
    ax = figure.subplots()
    largest = max(4 * tolerance, 1e-6)
    colour_scale = drop_heatmap(ax, drops.assign(reusable=drops["drop"] <= tolerance), largest)
    bar = figure.colorbar(colour_scale, ax=ax, extend="max")
    bar.set_label("drop in Dice", fontsize=9)
    bar.ax.tick_params(labelsize=7)
    ax.set_xlabel("layer (numbered within each kind)", fontsize=9)
    ax.set_title(f"dot: drop within the tolerance of {tolerance:g}", fontsize=9)
    ax.tick_params(labelsize=7)
    _save(figure, path)


def learning_curves(curves: pd.DataFrame, own: Sequence[str], path: str | Path) -> None:
    """Mean Dice of the held-out patients against steps: candidates that went on in colour, dropped ones grey.

    Args:
        curves: of `prrmse.search.Search`.
        own: names of the starts among the sources that need no source.
        path: of the image; its ending chooses the format.
    """
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    ax = figure.subplots()
    means = curves.groupby(["source", "plan", "steps"], sort=False)["dice"].mean().reset_index()
    means["name"] = (means["source"] + " " + means["plan"]).str.strip()
    last = means["steps"].max()
    reached = means[means["steps"] == last].sort_values("dice", ascending=False)["name"]
    palette = dict(zip(reached[~reached.isin(own)], sns.color_palette("colorblind"), strict=False))
    for name, rows in means.groupby("name", sort=False):
        style = {"color": palette.get(name, "0.75"), "linewidth": 1.5, "marker": "o", "markersize": 4}
        if name in own:
            style |= {"color": "black", "linestyle": ("--", "-.")[own.index(name)]}
        ax.plot(rows["steps"], rows["dice"], label=name if name in set(reached) else None, **style)
    ax.plot([], [], color="0.75", marker="o", markersize=4, label="dropped")
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(means["steps"])), [str(steps) for steps in sorted(set(means["steps"]))])
    ax.set_xlabel("steps", fontsize=9)
    ax.set_ylabel("Dice of held-out patients, mean", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    _save(figure, path)


def _save(figure: Figure, path: str | Path) -> None:
    with atomic(path) as partial:
        figure.savefig(partial, dpi=150)
