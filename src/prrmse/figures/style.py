"""How every figure looks, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prrmse.files import atomic
from prrmse.settings import Figures, Verdict

Tables = Mapping[str, pd.DataFrame]

NET_NAMES = {"unet": "UNet", "pspnet": "PSPNet"}
DICE = "Dice (mean foreground)"
PAGE_INCHES = 7.0
# Widths in points.
LINE, MARKER = 1.2, 3.5


class Drawing(NamedTuple):
    """What figures are drawn by: the style, the rule of the verdict, and the target whose sweeps are shown."""

    style: Figures = Figures()
    verdict: Verdict = Verdict()
    target: str = ""


def use_style(settings: Drawing) -> None:
    """Seaborn's theme, type that stays legible at page width, and reproducible SVG."""
    sns.set_theme(context=settings.style.context, style="ticks", font_scale=0.82)
    mpl.rcParams.update({"svg.hashsalt": "prrmse", "svg.fonttype": "path", "axes.titlesize": "medium"})
    mpl.rcParams.update(
        {"figure.dpi": 100, "legend.frameon": False, "lines.markersize": MARKER, "lines.linewidth": LINE}
    )


def colours(names: list[str], palette: str) -> dict[Any, Any]:
    """One colour for each model, the same in every figure."""
    return dict(zip(names, sns.color_palette(palette, len(names)), strict=True))


def footnote(figure: Figure, tables: Tables, text: str = "") -> None:
    """Provenance and counts below the figure."""
    kinds = sorted(set(tables["data"]["provenance"])) if "data" in tables else []
    data = f"Data: {', '.join(kinds)}. " if kinds else ""
    figure.text(0.005, -0.01, data + text, fontsize=7, color="0.35", va="top", ha="left", wrap=True)


def panel_grid(rows: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Panels at page width; ``height`` in inches of one row."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(PAGE_INCHES, height * rows), layout="constrained", squeeze=False
    )
    figure.set_layout_engine("none")  # until it is saved: each of seaborn's heatmaps would lay it out anew
    return figure, list(axes.flat)


def by_layer(ax: Axes, rows: pd.DataFrame, column: str, colour: Any, label: str, under: int = 0) -> None:
    """Mean of a column at each layer, with a band from the lowest to the highest value.

    Args:
        ax: where.
        rows: layer and the column.
        column: what is shown.
        colour: of line and band.
        label: in the legend.
        under: so many lines are still to come; the more, the wider this one is, so that equal ones do not hide it.
    """
    values = rows.groupby("layer")[column].agg(["mean", "min", "max"])
    ax.fill_between(values.index, values["min"], values["max"], color=colour, alpha=0.2, linewidth=0)
    ax.plot(
        values.index,
        values["mean"],
        marker="o",
        color=colour,
        label=label,
        linewidth=LINE + 1.2 * under,
        markersize=MARKER + 1.5 * under,
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def lines_by_layer(
    ax: Axes, lines: Iterable[tuple[Any, pd.DataFrame]], column: str, palette: Mapping[str, Any]
) -> None:
    """`by_layer` of each (name, rows), of which the first lies lowest."""
    named = [(str(name), rows) for name, rows in lines]
    for above, (name, rows) in zip(reversed(range(len(named))), named, strict=True):
        by_layer(ax, rows, column, palette[name], name, above)


def absent(axes: Axes, text: str) -> None:
    """Say why a panel is empty."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="0.4")
    axes.set_axis_off()


def legend_above(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """One legend of these panels for all, outside the data; the space below is the footnote's."""
    found = dict(pair for ax in axes for pair in zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if found:
        figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=columns)


def save(figure: Figure, name: str, out: Path, settings: Drawing) -> None:
    """Write SVG and PNG, the same bytes for the same figure."""
    figure.set_layout_engine("constrained")
    with atomic(out / f"{name}.svg") as partial:
        figure.savefig(partial, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # laid out once for both
    with atomic(out / f"{name}.png") as partial:
        figure.savefig(partial, bbox_inches="tight", dpi=settings.style.dpi, metadata={"Software": None})
    plt.close(figure)
