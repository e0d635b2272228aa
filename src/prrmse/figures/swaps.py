"""Fig. 3, 4, 5, 7, 8: Dice after swapping one kind of parameter, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prrmse.figures.style import (
    DICE,
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


def swap_panels(tables: Tables, settings: Drawing, panels: list[tuple[str, str]], columns: int) -> Figure:
    """One panel for each (net, kind): mean over seeds, band from the lowest to the highest seed."""
    swap = tables["swap"][tables["swap"]["class"] == "mean"]
    palette = colours(sorted(swap["source"].unique()), settings.style.palette)
    figure, axes = panel_grid(-(-len(panels) // columns), columns, 2.3)
    for ax, (net, kind) in zip(axes, panels, strict=False):
        rows = swap[(swap["net"] == net) & (swap["kind"] == kind)]
        name = NET_NAMES.get(net, net)
        if rows.empty:
            absent(ax, f"{name}: not in this run")
            continue
        _panel(ax, rows, palette, settings.verdict.tolerance)
        ax.set_title(f"{name}: {KIND_NAMES[kind]}")
        ax.set_xlabel(f"layer (number of {kind})")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[::columns]:
        ax.set_ylabel(DICE)
    legend_above(figure, axes)
    seeds, patients = swap["seed"].nunique(), swap["n_patients"].max()
    footnote(
        figure,
        tables,
        f"Line: mean over {seeds} seeds, band: lowest to highest seed; {patients} validation patients. "
        "Dashed: the target itself; grey: tolerance. Open: final layer. Each panel has an axis of its own; of equal "
        "lines the one below is wider. Layout reconstructed.",
    )
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, palette: Mapping[str, Any], tolerance: float) -> None:
    baseline = rows["baseline"].mean()
    ax.axhspan(baseline - tolerance, baseline, color="0.9", zorder=0, label="tolerance")
    ax.axhline(baseline, color="0.3", linestyle="--", linewidth=0.9, label="target, nothing swapped")
    lines_by_layer(ax, rows.groupby("source"), "dice", palette)
    for source, group in rows.groupby("source"):
        colour = palette[str(source)]
        final = group[group["final"]].groupby("layer")["dice"].mean()
        ax.plot(final.index, final, marker="o", markerfacecolor="white", color=colour, linestyle="none", zorder=4)
    # Not always from 0 to 1, where small drops would be one flat line; but at least twice the tolerance, by which small
    # is told.
    low, high = min(rows["dice"].min(), baseline - 2 * max(tolerance, 0.01)), max(rows["dice"].max(), baseline)
    ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
