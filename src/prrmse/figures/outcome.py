"""Our two figures beyond the paper's: the map of verdicts, and the gain of transfer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from prrmse.figures.style import DICE, NET_NAMES, Tables, absent, colours, footnote, legend_above, panel_grid
from prrmse.tables.paper import PAPER_ROWS

KINDS = ["W", "B", "RM", "RV", "RW", "RB"]


def verdict_map(tables: Tables, settings: Mapping[str, Any]) -> Figure:
    """Drop of Dice for each (kind, layer); a dot where the pair is reusable."""
    verdict = tables["verdict"]
    groups = list(verdict.groupby(["net", "target", "source"], sort=False))
    figure, axes = panel_grid(-(-len(groups) // 2), 2, 1.55)
    for ax, ((net, _target, source), rows) in zip(axes, groups, strict=False):
        drop = rows.pivot_table(index="kind", columns="layer", values="drop").reindex(KINDS)
        sns.heatmap(drop, ax=ax, cmap="rocket_r", norm=Normalize(0, 0.6), cbar=False, linewidths=0.3, linecolor="white")
        good = rows[rows["reusable"]]
        columns = {layer: i for i, layer in enumerate(drop.columns)}
        ax.scatter(
            [columns[layer] + 0.5 for layer in good["layer"]],
            [KINDS.index(kind) + 0.5 for kind in good["kind"]],
            s=4, color="teal",
        )  # fmt: skip
        share = rows[~rows["final"]]["reusable"].mean()
        ax.set_title(f"{NET_NAMES.get(str(net), str(net))} from {source}: {share:.0%} of pairs reusable")
        names = [str(layer) for layer in drop.columns]
        ax.set_xticks(np.arange(0, len(names), 3) + 0.5, names[::3], rotation=0)
        ax.tick_params(length=0)
        ax.set_yticks(np.arange(len(KINDS)) + 0.5, KINDS, rotation=0)
        ax.set(xlabel="", ylabel="")
    for ax in axes[len(groups) :]:
        ax.set_axis_off()
    from matplotlib.cm import ScalarMappable

    bar = ScalarMappable(Normalize(0, 0.6), "rocket_r")
    figure.colorbar(bar, ax=axes, shrink=0.5, label="drop of Dice", extend="max", aspect=30)
    footnote(
        figure,
        tables,
        f"Dot: reusable at tolerance {settings['tolerance']} (rule: {settings['rule']}). Columns: layer number of "
        f"the kind. n = {verdict['n_patients'].max()} patients, {verdict['n_seeds'].max()} seeds. "
        "Ours, not the paper's.",
    )
    return figure


def transfer_gain(tables: Tables, settings: Mapping[str, Any]) -> Figure:
    """Dice of each arm and sample size: mean and every seed, the paper's number as an open diamond."""
    transfer = tables["transfer"]
    rows = transfer[transfer["class"] == "mean"].copy()
    rows["run"] = np.where(rows["arm"] == "scratch", "scratch", rows["source"] + "\n" + rows["arm"])
    samples = sorted(rows["samples"].unique())
    palette = colours([str(s) for s in samples], settings["palette"])
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
            ax.scatter(means.index, means, s=110, marker="_", linewidths=2, color=colour, label=f"{n} patients asked")
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


def _paper(part: pd.DataFrame, runs: list[str], samples: int) -> pd.DataFrame:
    """The paper's foreground means at the places of our runs."""
    known = {
        "scratch" if row.arm == "scratch" else f"{row.source}\n{row.arm}": row.foreground
        for row in PAPER_ROWS
        if row.samples == samples and "pspnet" in set(part["net"])
    }
    found = [(runs.index(run), value) for run, value in known.items() if run in runs]
    return pd.DataFrame(found, columns=["x", "dice"])
