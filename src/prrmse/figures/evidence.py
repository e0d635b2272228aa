"""The figures of the evidence: controls, joint swaps, initialisation against architecture, scores against gains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prrmse.figures.style import (
    NET_NAMES,
    Drawing,
    by_layer,
    colours,
    footnote,
    legend_above,
    panel_grid,
    save,
    use_style,
)
from prrmse.names import KINDS
from prrmse.tables.controls import ranked
from prrmse.tables.ranking import NO_SOURCE, SCORES


def draw_controls(controls: pd.DataFrame, swaps: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Drop in Dice for every kernel (a point) of every control and source, a panel for each network.

    Args:
        controls, swaps: rows of sweeps, with the control's or the source's name in ``source``.
        settings: style and verdict.
        out: folder.
    """
    use_style(settings)
    rows = pd.concat([controls, swaps])
    rows = rows[(rows["kind"] == "W") & ~rows["final"]].assign(drop=lambda t: t["baseline"] - t["dice"])
    points = rows.groupby(["net", "target", "source", "layer"], sort=False)["drop"].mean().reset_index()
    order = [*ranked(list(controls["source"].unique())), *sorted(swaps["source"].unique())]
    real = set(swaps["source"])
    nets = list(dict.fromkeys(points["net"]))
    jitter = np.random.default_rng(0)
    figure, axes = panel_grid(1, len(nets), 0.6 + 0.2 * len(order))
    for ax, net in zip(axes, nets, strict=True):
        ax.axvspan(min(0.0, points["drop"].min()), settings.verdict.tolerance, color="0.93", zorder=0)
        for i, name in enumerate(order):
            drops = points[(points["net"] == net) & (points["source"] == name)]["drop"]
            height = i + jitter.uniform(-0.2, 0.2, len(drops))
            ax.plot(drops, height, ".", markersize=4, alpha=0.7, color="C0" if name in real else "0.45")
        means = points[points["net"] == net].groupby("source")["drop"].mean().reindex(order)
        ax.plot(means.to_numpy(), range(len(order)), linestyle="none", marker="|", markersize=11, color="black")
        ax.set(title=NET_NAMES.get(net, net), xlabel="drop in Dice, one kernel (W) swapped", ylabel="")
        ax.set_yticks(range(len(order)), order if ax is axes[0] else [])
        ax.invert_yaxis()
    seeds, patients = rows["seed"].nunique(), rows["patient"].nunique()
    footnote(
        figure,
        {},
        f"A point: one kernel, mean over {seeds} seeds and {patients} validation patients; bar: mean over kernels. "
        "Grey: controls; blue: sources; band: tolerance. Ours.",
    )
    save(figure, "controls", out, settings)


VARIANTS = {"alone": "W alone", "reestimated": "W, statistics re-estimated", "joint": "W, B, RM, RV"}


def draw_joint(joint: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Drop in Dice one layer at a time by variant, and cumulatively by source; a row for each network.

    Args:
        joint: net, source, variant, layer, drop, n_patients, n_seeds.
        settings: style and verdict.
        out: folder.
    """
    use_style(settings)
    nets, sources = (list(dict.fromkeys(joint[column])) for column in ("net", "source"))
    figure, axes = panel_grid(len(nets), 2, 2.2)
    of_variant = colours([*VARIANTS, *sources], settings.style.palette)
    for net, (one, upon) in zip(nets, zip(axes[::2], axes[1::2], strict=True), strict=True):
        rows = joint[(joint["net"] == net) & (joint["layer"] > 0)]
        for variant, label in VARIANTS.items():
            by_layer(one, rows[rows["variant"] == variant], "drop", of_variant[variant], label)
        for source in sources:
            own = rows[(rows["variant"] == "cumulative") & (rows["source"] == source)]
            by_layer(upon, own, "drop", of_variant[source], f"up to this layer, {source}")
        for ax in (one, upon):
            ax.axhline(settings.verdict.tolerance, color="0.6", linewidth=0.8, linestyle="--")
            ax.set(title=NET_NAMES.get(net, net), xlabel="convolution", ylabel="drop in Dice")
    legend_above(figure, axes[:2], 3)
    n = f"{joint['n_seeds'].max()} seeds and {joint['n_patients'].max()} validation patients"
    text = f"Left: one layer; mean and range over sources. Right: all layers up to this one. Means over {n}. "
    footnote(figure, {}, f"{text}Dashed: tolerance. Ours.")
    save(figure, "joint", out, settings)


def draw_screen(pairs: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Drop in Dice of every pair and source (a point) against its first-order estimate and its RMSE, a row a network.

    Args:
        pairs: of `prrmse.tables.screen.predicted`.
        settings: style and verdict.
        out: folder.
    """
    use_style(settings)
    rows = pairs[~pairs["final"]]
    nets, kinds = list(dict.fromkeys(rows["net"])), [kind for kind in KINDS if kind in set(rows["kind"])]
    palette = colours(list(KINDS), settings.style.palette)
    figure, axes = panel_grid(len(nets), 2, 2.4)
    labels = {"first_order": "first-order estimate (cross-entropy per foreground pixel)", "rmse": "RMSE of the tensors"}
    for net, both in zip(nets, zip(axes[::2], axes[1::2], strict=True), strict=True):
        for ax, (column, label) in zip(both, labels.items(), strict=True):
            ax.axhspan(min(0.0, rows["drop"].min()), settings.verdict.tolerance, color="0.93", zorder=0)
            for kind in kinds:
                own = rows[(rows["net"] == net) & (rows["kind"] == kind) & (rows[column] > 0)]
                ax.plot(own[column], own["drop"], ".", markersize=4, alpha=0.7, color=palette[kind], label=kind)
            ax.set(xscale="log", title=NET_NAMES.get(net, net), xlabel=label, ylabel="drop in Dice")
    legend_above(figure, axes[:1], 6)
    n = f"{rows['n_seeds'].max()} seeds and {rows['n_patients'].max()} validation patients"
    footnote(
        figure, {}, f"A point: one pair and source, mean over {n}; those at 0 are not shown. Band: tolerance. Ours."
    )
    save(figure, "screen", out, settings)


def draw_factorial(cells: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Drop in Dice from sources and from random kernels, and normalised reuse, by network and initialisation.

    Args:
        cells: of `prrmse.tables.factorial.factorial_table`.
        settings: style.
        out: folder.
    """
    use_style(settings)
    figure, (drop, reuse) = panel_grid(1, 2, 2.6)
    nets, inits = (list(dict.fromkeys(cells[column])) for column in ("net", "init"))
    palette = colours(nets, settings.style.palette)
    every = cells[cells["source"] == "all"].set_index(["net", "init"])
    for net in nets:
        own, name = every.loc[net].loc[inits], NET_NAMES.get(net, net)
        x = np.arange(len(inits)) + 0.12 * (nets.index(net) - (len(nets) - 1) / 2)
        drop.plot(x, own["drop"], marker="o", color=palette[net], label=f"{name}, sources")
        drop.plot(x, own["drop_random"], marker="x", linestyle=":", color=palette[net], label=f"{name}, random kernels")
        errors = np.abs(own[["reuse_low", "reuse_high"]].to_numpy().T - own["reuse"].to_numpy())
        reuse.errorbar(x, own["reuse"], yerr=errors, marker="o", color=palette[net], capsize=2)
        single = cells[(cells["net"] == net) & (cells["source"] != "all")]
        for i, init in enumerate(inits):
            points = single[single["init"] == init]["reuse"]
            reuse.plot(np.full(len(points), x[i] + 0.03), points, ".", color=palette[net], alpha=0.5)
    for ax, title in ((drop, "drop in Dice, one kernel swapped"), (reuse, "reuse: 1 - drop / drop of random")):
        ax.set(title=title, xlabel="initialisation of the base models", xlim=(-0.4, len(inits) - 0.6))
        ax.set_xticks(range(len(inits)), inits)
    reuse.axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    legend_above(figure, [drop], 2)
    n = every["n_patients"].max()
    footnote(figure, {}, f"Bars: interval over seeds and {n} validation patients; small points: single sources. Ours.")
    save(figure, "factorial", out, settings)


def draw_ranking(ranking: pd.DataFrame, gain: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Left: how well each score ranks the sources; right: what fine-tuning from each gained. A row for each network.

    Args:
        ranking: of `prrmse.tables.ranking.ranking_table`.
        gain: of `prrmse.tables.ranking.gain_table`.
        settings: style.
        out: folder.
    """
    use_style(settings)
    nets, arms = (list(dict.fromkeys(ranking[column])) for column in ("net", "arm"))
    palette = colours(arms, settings.style.palette)
    gain = gain.assign(
        name=gain["source"].where(gain["source"] != NO_SOURCE, "own initialisation")
        + " "
        + gain["source_seed"].astype(str)
    )
    figure, axes = panel_grid(len(nets), 2, 0.6 + 0.19 * max(len(SCORES), gain["name"].nunique()))
    for net, (left, right) in zip(nets, zip(axes[::2], axes[1::2], strict=True), strict=True):
        rows = ranking[ranking["net"] == net].assign(name=lambda t: t["score"].map(lambda score: SCORES[score][1]))
        first = rows[rows["arm"] == arms[0]].sort_values("tau", ascending=False, na_position="last")
        _ranges(left, rows, "tau", list(first["name"]), palette)
        left.set(
            title=f"{NET_NAMES.get(net, net)}: does it rank the sources?", xlabel="weighted Kendall tau with the gain"
        )
        own = gain[gain["net"] == net]
        own = own[own["arm"] == arms[0]].sort_values("gain", ascending=False)
        _ranges(right, own, "gain", list(own["name"]), palette)
        right.set(title=f"what each source gained, {arms[0]}", xlabel="gain in Dice over own initialisation")
    legend_above(figure, axes[:1], len(arms))
    n = f"{gain['n_runs'].max()} runs, {gain['n_patients'].max()} validation patients"
    text = f"{ranking['n_sources'].max()} sources of {ranking['n_models'].max()} base models, {n}. "
    footnote(figure, {}, f"{text}Bars: bootstrap intervals; what has no bar has too few sources. Ours.")
    save(figure, "ranking", out, settings)


def _ranges(ax: Any, rows: pd.DataFrame, column: str, names: list[str], palette: Mapping[str, Any]) -> None:
    """A point with its interval for each name, one above the other, by arm."""
    arms = list(rows.groupby("arm", sort=False))
    for i, (arm, own) in enumerate(arms):
        own = own.set_index("name").reindex(names)
        y = np.arange(len(names)) + 0.22 * (i - (len(arms) - 1) / 2)
        errors = np.abs(own[[f"{column}_low", f"{column}_high"]].to_numpy().T - own[column].to_numpy())
        ax.errorbar(own[column], y, xerr=errors, fmt="o", color=palette[str(arm)], label=arm, elinewidth=0.8)
    ax.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
