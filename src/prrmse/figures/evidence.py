"""The figure of the evidence: what a swap of kernels costs, from real sources and from controls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns

from prrmse.evidence import ranked
from prrmse.figures.style import NET_NAMES, footnote, panel_grid, save, use_style


def draw_controls(controls: pd.DataFrame, swaps: pd.DataFrame, settings: Mapping[str, Any], out: Path) -> None:
    """Loss of Dice for every kernel (a point) of every control and source, a panel for each network.

    Args:
        controls, swaps: rows of sweeps, with the control's or the source's name in ``source``.
        settings: of ``figures`` and ``verdict``.
        out: folder.
    """
    use_style(settings)
    rows = pd.concat([controls, swaps])
    rows = rows[(rows["kind"] == "W") & ~rows["final"]].assign(drop=lambda t: t["baseline"] - t["dice"])
    points = rows.groupby(["net", "target", "source", "layer"], sort=False)["drop"].mean().reset_index()
    order = [*ranked(list(controls["source"].unique())), *sorted(swaps["source"].unique())]
    real = set(swaps["source"])
    nets = list(dict.fromkeys(points["net"]))
    figure, axes = panel_grid(1, len(nets), 0.6 + 0.2 * len(order))
    for ax, net in zip(axes, nets, strict=True):
        ax.axvspan(min(0.0, points["drop"].min()), settings["tolerance"], color="0.93", zorder=0)
        sns.stripplot(
            points[points["net"] == net], x="drop", y="source", order=order, ax=ax, size=3, alpha=0.7, jitter=0.2,
            hue="source", hue_order=order, palette=["C0" if name in real else "0.45" for name in order], legend=False,
        )  # fmt: skip
        means = points[points["net"] == net].groupby("source")["drop"].mean().reindex(order)
        ax.plot(means.to_numpy(), range(len(order)), linestyle="none", marker="|", markersize=11, color="black")
        ax.set(title=NET_NAMES.get(net, net), xlabel="loss of Dice, one kernel (W) swapped", ylabel="")
        if ax is not axes[0]:
            ax.set_yticklabels([])
    seeds, patients = rows["seed"].nunique(), rows["patient"].nunique()
    footnote(
        figure,
        {},
        f"A point: one kernel, mean over {seeds} seeds and {patients} validation patients; bar: mean over kernels. "
        "Grey: controls; blue: sources; band: tolerance. Ours.",
    )
    save(figure, "controls", out, settings)
