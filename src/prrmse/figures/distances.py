"""Fig. 6, 9, 10, 11, 12: RMSE of kernels, and the shift of BN outputs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from prrmse.figures.style import (
    NET_NAMES,
    Drawing,
    Tables,
    absent,
    colours,
    footnote,
    legend_above,
    lines_by_layer,
    panel_grid,
)
from prrmse.names import KIND_NAMES


def both_ways(rmse: pd.DataFrame) -> pd.DataFrame:
    """Each unordered pair of models, seen from either of them."""
    turned = rmse.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    return pd.concat([rmse, turned], ignore_index=True)


def rmse_by_layer(tables: Tables, settings: Drawing, net: str) -> Figure:
    """RMSE of every kernel between target and each source, raw and relative."""
    pairs = tables["swap"][["target", "source"]].drop_duplicates()
    palette = colours(sorted(pairs["source"].unique()), settings.style.palette)
    rows = both_ways(tables["rmse"])
    rows = rows[(rows["net"] == net) & (rows["kind"] == "W")]
    rows = rows.merge(pairs, left_on=["model_a", "model_b"], right_on=["target", "source"])
    figure, axes = panel_grid(1, 2, 2.6)
    name = NET_NAMES.get(net, net)
    for ax, column, label in zip(axes, ("rmse", "rmse_relative"), ("RMSE", "relative RMSE"), strict=True):
        if rows.empty:
            absent(ax, f"{name}: not in this run")
            continue
        lines_by_layer(ax, rows.groupby("source"), column, palette)
        ax.set(title=f"{name}: {KIND_NAMES['W']}", xlabel="layer (number of W)", ylabel=label)
        ax.set_ylim(bottom=0)
    legend_above(figure, axes[:1])
    footnote(figure, tables, _seeds(tables["rmse"]) + "Relative: 0 equal, 1 uncorrelated (ours). Layout reconstructed.")
    return figure


def bn_shifts(tables: Tables, settings: Drawing) -> Figure:
    """MRM, MRV, MRW, MRB of every BN layer, both nets."""
    shifts = tables["bn_shift"]
    palette = colours(sorted(shifts["source"].unique()), settings.style.palette)
    names = {"mrm": "MRM (shift)", "mrv": "MRV (scale)", "mrw": "MRW (scale)", "mrb": "MRB (shift)"}
    figure, axes = panel_grid(len(names), 2, 1.7)
    for i, (ax, (statistic, net)) in enumerate(zip(axes, ((s, n) for s in names for n in NET_NAMES), strict=True)):
        rows = shifts[shifts["net"] == net]
        if rows.empty:
            absent(ax, f"{NET_NAMES[net]}: not in this run")
            continue
        lines_by_layer(ax, rows.groupby("source"), statistic, palette)
        ax.axhline(1.0 if statistic in ("mrv", "mrw") else 0.0, color="0.3", linestyle="--", linewidth=0.9)
        if i < 2:
            ax.set_title(NET_NAMES[net])
        if i % 2 == 0:
            ax.set_ylabel(names[statistic])
        if i >= 6:
            ax.set_xlabel("BN layer")
    legend_above(figure, axes[:1])
    footnote(figure, tables, _seeds(shifts) + "Means over channels, signed; dashed: no change. Formulas reconstructed.")
    return figure


def rmse_matrices(tables: Tables, _: Drawing) -> Figure:
    """Mean RMSE of kernels between every two base models."""
    rows = both_ways(tables["rmse"])
    rows = rows[(rows["kind"] == "W") & ~rows["final"]]
    figure, axes = panel_grid(2, 2, 3.0)
    names = {"rmse": "RMSE", "rmse_relative": "relative RMSE"}
    for ax, (net, column) in zip(axes, ((n, c) for n in NET_NAMES for c in names), strict=True):
        part = rows[rows["net"] == net]
        if part.empty:
            absent(ax, f"{NET_NAMES[net]}: not in this run")
            continue
        matrix = part.pivot_table(index="model_a", columns="model_b", values=column)
        # Each two models once; a model's distance to itself, 0, would take up the colours.
        below = np.tril(np.ones(matrix.shape, bool), -1)
        matrix = matrix.where(below).iloc[1:, :-1]
        sns.heatmap(
            matrix, ax=ax, cmap="crest", annot=True, fmt=".3f" if column == "rmse" else ".2f",
            annot_kws={"size": 6}, square=True, cbar_kws={"shrink": 0.8},
        )  # fmt: skip
        ax.set(title=f"{NET_NAMES[net]}: {names[column]} of W", xlabel="", ylabel="")
        ax.tick_params(axis="x", rotation=40, length=0)
        ax.tick_params(axis="y", rotation=0, length=0)
        for label in ax.get_xticklabels():
            label.set_horizontalalignment("right")
    seeds = tables["rmse"]["seed"].nunique()
    footnote(
        figure,
        tables,
        f"Mean over {seeds} seeds and all layers but the final one; each two models once. Colours from the smallest "
        "value of a panel to its largest. Layout reconstructed.",
    )
    return figure


def relation(model_a: str, model_b: str) -> str:
    """What two base models have in common."""
    (data_a, task_a), (data_b, task_b) = model_a.rsplit("-", 1), model_b.rsplit("-", 1)
    if data_a == data_b:
        return "same data, other task"
    return "same task, other data" if task_a == task_b else "other data and task"


RELATIONS = ["same data, other task", "same task, other data", "other data and task"]


def rmse_groups(tables: Tables, settings: Drawing) -> Figure:
    """Relative RMSE by layer, for pairs of models grouped by what they share."""
    rows = tables["rmse"][tables["rmse"]["kind"] == "W"].copy()
    rows["relation"] = [relation(a, b) for a, b in zip(rows["model_a"], rows["model_b"], strict=True)]
    palette = colours(RELATIONS, settings.style.palette)
    figure, axes = panel_grid(1, 2, 2.6)
    for ax, net in zip(axes, NET_NAMES, strict=True):
        part = rows[rows["net"] == net]
        if part.empty:
            absent(ax, f"{NET_NAMES[net]}: not in this run")
            continue
        lines_by_layer(ax, ((name, part[part["relation"] == name]) for name in RELATIONS), "rmse", palette)
        ax.set(title=f"{NET_NAMES[net]}: {KIND_NAMES['W']}", xlabel="layer (number of W)", ylabel="RMSE")
        ax.set_ylim(bottom=0)
    legend_above(figure, axes[:1], 3)
    footnote(figure, tables, "Mean over pairs of models and seeds; band: lowest to highest. Layout reconstructed.")
    return figure


def _seeds(table: pd.DataFrame) -> str:
    return f"Mean over {table['seed'].nunique()} seeds; band: lowest to highest. "
