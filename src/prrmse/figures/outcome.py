"""Two of our figures beyond the paper's: the verdicts as a heatmap, and the gain of transfer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from prrmse.figures.heatmap import drop_heatmap
from prrmse.figures.style import DICE, NET_NAMES, Drawing, Tables, absent, colours, footnote, legend_above, panel_grid
from prrmse.tables.paper import PAPER_ROWS

# End of the colour scale: the same in every run, so that heatmaps can be compared.
LARGEST_DROP = 0.6


def verdict_map(tables: Tables, settings: Drawing) -> Figure:
    """Drop in Dice for each (kind, layer) pair; a dot where the pair is reusable."""
    verdict = tables["verdict"]
    groups = list(verdict.groupby(["net", "target", "source"], sort=False))
    places, rows_needed, columns = in_columns([str(net) for (net, *_), _ in groups])
    figure, axes = panel_grid(rows_needed, columns, 1.55)
    for place, ((net, _target, source), rows) in zip(places, groups, strict=True):
        ax = axes[place]
        colour_scale = drop_heatmap(ax, rows, LARGEST_DROP, tick_every=3)
        share = rows[~rows["final"]]["reusable"].mean()
        ax.set_title(f"{NET_NAMES.get(str(net), str(net))} from {source}: {share:.0%} of pairs reusable")
    for place in set(range(len(axes))) - set(places):
        axes[place].set_axis_off()
    figure.colorbar(colour_scale, ax=axes, shrink=0.5, label="drop in Dice", extend="max", aspect=30)
    footnote(
        figure,
        tables,
        f"Dot: reusable at tolerance {settings.verdict.tolerance} (rule: {settings.verdict.rule}). Columns: layer, "
        f"numbered within each kind. n = {verdict['n_patients'].max()} patients, {verdict['n_seeds'].max()} seeds. "
        "Ours, not the paper's.",
    )
    return figure


def in_columns(nets: list[str]) -> tuple[list[int], int, int]:
    """Panels such that those of a network are below each other, two networks side by side: they have unequal layers.

    Args:
        nets: the network of each panel.

    Returns:
        The place of each panel, counted row by row; the number of rows, and that of columns.
    """
    names = list(dict.fromkeys(nets))
    columns = min(len(names), 2)
    places, top = [0] * len(nets), 0
    for first in range(0, len(names), 2):
        height = 0
        for column, name in enumerate(names[first : first + 2]):
            own = [i for i, net in enumerate(nets) if net == name]
            for row, i in enumerate(own):
                places[i] = (top + row) * columns + column
            height = max(height, len(own))
        top += height
    return places, top, columns


def transfer_gain(tables: Tables, settings: Drawing) -> Figure:
    """Dice of each arm and sample size: mean and every seed, the paper's number as an open diamond."""
    transfer = tables["transfer"]
    rows = transfer[transfer["class"] == "mean"].copy()
    rows["run"] = np.where(rows["arm"] == "scratch", "scratch", rows["source"] + "\n" + rows["arm"])
    samples = sorted(rows["samples"].unique())
    palette = colours([str(s) for s in samples], settings.style.palette)
    nets = list(rows["net"].unique()) or ["pspnet"]
    figure, axes = panel_grid(len(nets), 1, 2.9)
    for ax, net in zip(axes, nets, strict=True):
        part = rows[rows["net"] == net]
        if part.empty:
            absent(ax, "no transfer run")
            continue
        runs = list(dict.fromkeys(part["run"]))
        for i, n in enumerate(samples):
            at = part[part["samples"] == n]
            x = np.array([runs.index(run) for run in at["run"]]) + 0.16 * (i - (len(samples) - 1) / 2)
            colour = palette[str(n)]
            ax.scatter(x, at["dice"], s=10, color=colour, alpha=0.5)
            means = at.assign(x=x).groupby("x")["dice"].mean()
            ax.scatter(means.index, means, s=110, marker="_", linewidths=2, color=colour, label=_requested(at, int(n)))
            paper = _paper(part, runs, int(n))
            ax.scatter(
                paper["x"] + 0.16 * (i - (len(samples) - 1) / 2), paper["dice"], s=18, marker="D",
                facecolors="none", edgecolors=colour, label=f"paper, {n} (real ACDC)" if len(paper) else None,
            )  # fmt: skip
        ax.set_xticks(range(len(runs)), runs)
        ax.set_ylabel(DICE)
        ax.set_title(NET_NAMES.get(net, net))
    legend_above(figure, axes[:1], 4)
    footnote(
        figure,
        tables,
        f"Bar: mean over {rows['seed'].nunique()} seeds; dots: seeds; {rows['n_patients'].max()} validation patients. "
        "Diamonds: mean of the paper's three foreground classes, other data. Ours, not the paper's.",
    )
    return figure


def _requested(rows: pd.DataFrame, samples: int) -> str:
    """Training patients of a run; both numbers where fewer were available than requested."""
    used = int(rows["n_train"].max()) if len(rows) else samples
    return f"{samples} patients" if used == samples else f"{samples} patients requested, {used} available"


def _paper(part: pd.DataFrame, runs: list[str], samples: int) -> pd.DataFrame:
    """The paper's foreground means at the places of our runs."""
    known = {
        "scratch" if row.arm == "scratch" else f"{row.source}\n{row.arm}": row.foreground
        for row in PAPER_ROWS
        if row.samples == samples and "pspnet" in set(part["net"])
    }
    found = [(runs.index(run), value) for run, value in known.items() if run in runs]
    return pd.DataFrame(found, columns=["x", "dice"])
