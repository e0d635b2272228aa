"""The figures of the study: what each start gives on each target, and which scores rank the sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from prrmse.figures.style import DICE, Drawing, colours, footnote, legend_above, panel_grid, save, use_style
from prrmse.names import PRETRAINED, SCRATCH
from prrmse.tables.connect import ALL as ALL_THE_WAY
from prrmse.tables.connect import HALF
from prrmse.tables.ranking import SCORES
from prrmse.tables.regret import ALL, SCORE, SEARCH
from prrmse.tables.study import MODES, arm, dice_of, of_sources, seeds_in_words

LISTS = {"verdict": "the verdict's list", "random": "random lists of equal size", "all": "all"}


def draw_study(tables: Mapping[str, pd.DataFrame], net: str, settings: Drawing, out: Path) -> None:
    """Every figure of the study.

    Args:
        tables: of `prrmse.report.study`, given and computed, by name.
        net: the network that is shown.
        settings: style.
        out: folder.
    """
    own = {name: tables[name][tables[name]["net"] == net] for name in ("runs", "ranking", "regrets")}
    draw_study_gains(own["runs"], settings, out)
    draw_study_ranking(own["ranking"], settings, out)
    regrets = own["regrets"]
    draw_study_regret(regrets[regrets["targets"].isin(regrets["targets"].unique()[:1])], settings, out)
    if "connect" in tables:
        draw_study_connect(tables["connect"], tables["llfc"], settings, out)


def draw_study_gains(runs: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Test Dice of every target from every start (left), and by list of reused layers (right).

    Args:
        runs: of `prrmse.tables.study.runs_table`, of one network.
        settings: style.
        out: folder.
    """
    use_style(settings)
    test = dice_of(runs)
    targets = list(dict.fromkeys(test["target"]))
    heights = {target: i for i, target in enumerate(targets)}
    figure, (left, right) = panel_grid(1, 2, 0.9 + 0.3 * len(targets))
    palette = colours(["a base model", PRETRAINED, SCRATCH, *LISTS], settings.style.palette)
    sources = of_sources(test)
    left.plot(
        sources["dice"],
        sources["target"].map(heights),
        ".",
        color=palette["a base model"],
        alpha=0.7,
        label="a base model",
    )
    for start, name in ((PRETRAINED, "pretrained weights"), (SCRATCH, "random kernels")):
        own = arm(test, "none", "finetune", start).droplevel("net")
        left.plot(own, own.index.map(heights), "|", markersize=11, color=palette[start], label=name)
    # Of seeds with lists, if not of all: what is compared has the same seeds.
    of_lists = runs[runs["seed"].isin(runs.loc[runs["reused"] == "verdict", "seed"])]
    listed = dice_of(of_lists)
    for i, (reused, name) in enumerate(LISTS.items()):
        for mode, marker in zip(MODES, "ox", strict=True):
            own = arm(listed, reused, mode).droplevel("net")
            height = own.index.map(heights) + 0.15 * (i - 1)
            right.plot(own, height, marker, color=palette[reused], label=f"{name}, {mode}")
    for ax, title in ((left, "by start, all reused, fine-tuned"), (right, "by list of reused layers, one source")):
        ax.set(title=title, xlabel=DICE)
        ax.set_yticks(range(len(targets)), targets if ax is left else [])
        ax.set_ylim(len(targets) - 0.5, -0.5)
    legend_above(figure, [left, right], 3)
    n = runs["n_train"].max()
    over = f"{seeds_in_words(runs)} (left) and {seeds_in_words(of_lists)} (right)"
    footnote(figure, {}, f"Up to {n} training patients; test patients, mean over {over}. Ours.")
    save(figure, "study_gains", out, settings)


def draw_study_ranking(ranking: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Kendall's tau of each score with what the sources gain: mean over targets with its interval.

    Args:
        ranking: of `prrmse.tables.study.ranking_over_targets`, of one network, with ``targets``, their kind.
        settings: style.
        out: folder.
    """
    use_style(settings)
    kinds = list(ranking["targets"].unique())
    first = ranking[ranking["targets"].isin(kinds[:1])].sort_values("tau", ascending=False)
    scores = list(first["score"])
    figure, (ax,) = panel_grid(1, 1, 0.8 + (0.1 + 0.07 * len(kinds)) * len(scores))
    palette = colours(kinds, settings.style.palette)
    for i, kind in enumerate(kinds):
        rows = ranking[(ranking["targets"] == kind) & ranking["score"].isin(scores)]
        heights = rows["score"].map(scores.index) + 0.22 * (i - (len(kinds) - 1) / 2)
        errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["tau"].to_numpy())
        label = f"{kind}, {rows['n_targets'].max()} targets"
        ax.errorbar(rows["tau"], heights, xerr=errors, fmt="o", color=palette[kind], elinewidth=0.8, label=label)
    ax.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(scores)), [SCORES[score][1] for score in scores])
    ax.set(ylim=(max(len(scores), 1) - 0.5, -0.5), xlabel="Kendall's tau with the test Dice of a target's sources")
    if len(kinds) > 1:
        legend_above(figure, [ax], len(kinds))
    n = f"{ranking['n_targets'].max()} targets, up to {ranking['n_sources'].max()} sources each"
    footnote(figure, {}, f"{n}; bars: interval over targets. Ours.")
    save(figure, "study_ranking", out, settings)


def draw_study_regret(regrets: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Regret of each way to choose a start against its cost: mean over targets with its interval.

    Args:
        regrets: of `prrmse.tables.regret.regrets`, of one network.
        settings: style.
        out: folder.
    """
    use_style(settings)
    figure, (ax,) = panel_grid(1, 1, 2.6)
    palette = colours(["search", "score", "other"], settings.style.palette)
    searched = regrets[regrets["way"].str.startswith(SEARCH)].sort_values("cost")
    trained = regrets[regrets["way"] == ALL]
    kinds = {"search": "short trainings (prrmse advise --budget)", "score": "a score", "other": "without looking"}
    free = regrets.drop([*searched.index, *trained.index])
    is_score = free["way"].str.startswith(SCORE)
    for kind, own in (("score", free[is_score]), ("other", free[~is_score])):
        ax.plot(own["cost"], own["regret"], "_", markersize=12, color=palette[kind], label=kinds[kind])
    close = 0.03 * free["regret"].max()
    others = free[~is_score].sort_values("regret")
    for _, own in others.groupby((others["regret"].diff() > close).cumsum()):
        place, names = (0, own["regret"].mean()), ", ".join(own["way"])
        ax.annotate(names, place, (-8, 0), textcoords="offset points", va="center", ha="right", fontsize="x-small")
    bars = np.abs(searched[["low", "high"]].to_numpy().T - searched["regret"].to_numpy())
    ax.errorbar(
        searched["cost"],
        searched["regret"],
        yerr=bars,
        fmt="o-",
        color=palette["search"],
        elinewidth=0.8,
        label=kinds["search"],
    )
    ax.plot(trained["cost"], trained["regret"], "k*", label=ALL)
    ax.set(xlabel="trained steps, as a share of training from every start", ylabel="regret in test Dice")
    ax.set(xlim=(-0.35, 1.05), ylim=(0, None), xticks=np.linspace(0, 1, 6))
    legend_above(figure, [ax], 2)
    footnote(figure, {}, f"Mean over {regrets['n_targets'].max()} targets; bars: interval over targets. Ours.")
    save(figure, "study_regret", out, settings)


def draw_study_connect(connected: pd.DataFrame, llfc: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Drop of half a step against that of the swap, one dot a kernel (left); linear connectivity by layer (right).

    Args:
        connected: of `prrmse.tables.connect.connect_table`.
        llfc: net, target, aligned, layer, llfc.
        settings: style; the tolerance is that of its verdict.
        out: folder.
    """
    use_style(settings)
    figure, (left, right) = panel_grid(1, 2, 2.8)
    palette = colours(list(llfc["net"].unique()), settings.style.palette)
    kernels = connected[(connected["layer"] > 0) & ~connected["aligned"].astype(bool)]
    for name, own in kernels.groupby("net", sort=False):
        left.plot(own[ALL_THE_WAY], own[HALF], ".", color=palette[name], alpha=0.7, label=str(name))
    left.axline((0, 0), slope=0.5, color="0.6", linewidth=0.8, linestyle=":")
    for draw in (left.axhline, left.axvline):
        draw(settings.verdict.tolerance, color="0.8", linewidth=0.8)
    left.set(title="one kernel", xlabel="drop in Dice of the swap", ylabel="drop of half a step")
    for (net, aligned), own in llfc.groupby(["net", "aligned"], sort=False):
        means = own.groupby("layer")["llfc"].mean()
        line = right.plot(range(1, 1 + len(means)), means, "--" if aligned else "-", color=palette[net])
        if aligned:
            line[0].set_label(f"{net}, aligned")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(title="linear connectivity", xlabel="kernel, from the image on", ylabel="cosine", ylim=(None, 1.02))
    legend_above(figure, [left, right], 4)
    n = f"{connected['target'].nunique()} targets, each towards one source"
    footnote(figure, {}, f"{n}; validation patients; grey: the tolerance, dotted: no barrier half way. Ours.")
    save(figure, "study_connect", out, settings)
