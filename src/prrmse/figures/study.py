"""The figures of the study: what each start gives on each target, and which scores rank the sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from prrmse.figures.style import DICE, Drawing, colours, footnote, legend_above, panel_grid, save, use_style
from prrmse.names import PRETRAINED, SCRATCH
from prrmse.tables.ranking import SCORES
from prrmse.tables.study import dice_of

LISTS = {"verdict": "the verdict's list", "random": "random lists of equal size", "all": "all"}


def draw_study_gains(runs: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Test Dice of every target from every start (left), and by list of reused layers (right).

    Args:
        runs: of `prrmse.tables.study.runs_table`, of one network.
        settings: style.
        out: folder.
    """
    use_style(settings)
    test = dice_of(runs).droplevel("net")
    targets = list(test.index)
    figure, (left, right) = panel_grid(1, 2, 0.9 + 0.3 * len(targets))
    palette = colours(["a base model", PRETRAINED, SCRATCH, *LISTS], settings.style.palette)
    heights = np.arange(len(targets))
    for target, y in zip(targets, heights, strict=True):
        own = test.loc[target].dropna()
        sources = own.xs(("all", "finetune"), level=("reused", "mode"))
        left.plot(
            sources, np.full(len(sources), y), ".", color=palette["a base model"], alpha=0.7, label="a base model"
        )
        for start in (PRETRAINED, SCRATCH):
            if (start, "none", "finetune") in own.index:
                name = "pretrained weights" if start == PRETRAINED else "random kernels"
                left.plot(own[start, "none", "finetune"], y, "|", markersize=11, color=palette[start], label=name)
        neighbour = next(source for source, reused, _ in own.index if reused == "verdict")
        for i, (reused, name) in enumerate(LISTS.items()):
            for mode, marker in (("finetune", "o"), ("freeze", "x")):
                label = f"{name}, {mode}"
                height = y + 0.15 * (i - 1)
                right.plot(own[neighbour, reused, mode], height, marker, color=palette[reused], label=label)
    for ax, title in ((left, "by start, all reused, fine-tuned"), (right, "by list of reused layers, one source")):
        ax.set(title=title, xlabel=DICE)
        ax.set_yticks(heights, targets if ax is left else [])
        ax.set_ylim(len(targets) - 0.5, -0.5)
    legend_above(figure, [left, right], 3)
    seeds, n = runs["seed"].nunique(), runs["n_train"].max()
    footnote(figure, {}, f"Up to {n} training patients; test patients, means over {seeds} seeds. Ours.")
    save(figure, "study_gains", out, settings)


def draw_study_ranking(ranking: pd.DataFrame, settings: Drawing, out: Path) -> None:
    """Kendall's tau of each score with what the sources gain: mean over targets with its interval.

    Args:
        ranking: of `prrmse.tables.study.ranking_over_targets`, of one network.
        settings: style.
        out: folder.
    """
    use_style(settings)
    rows = ranking.sort_values("tau", ascending=False)
    figure, (ax,) = panel_grid(1, 1, 0.8 + 0.17 * len(rows))
    errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["tau"].to_numpy())
    ax.errorbar(rows["tau"], np.arange(len(rows)), xerr=errors, fmt="o", elinewidth=0.8)
    ax.axvline(0, color="0.6", linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(rows)), [SCORES[score][1] for score in rows["score"]])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel="Kendall's tau with the test Dice of a target's sources")
    n = f"{ranking['n_targets'].max()} targets, up to {ranking['n_sources'].max()} sources each"
    footnote(figure, {}, f"{n}; bars: interval over targets. Ours.")
    save(figure, "study_ranking", out, settings)
