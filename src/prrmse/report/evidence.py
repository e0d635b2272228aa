"""The page of evidence, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from prrmse.report.page import inline, template
from prrmse.tables.controls import source_summary
from prrmse.tables.markdown import markdown_table
from prrmse.tables.ranking import NO_SOURCE, SCORES


class Section(NamedTuple):
    """A heading, text, a table, and a figure's name and caption."""

    title: str
    text: str
    table: pd.DataFrame
    figure: str = ""
    caption: str = ""


def evidence_sections(tables: Mapping[str, pd.DataFrame], params: Mapping[str, Any]) -> list[Section]:
    """The sections of the page, in order.

    Args:
        tables: findings, controls, relative, joint, screen, factorial, effects, layers, gain, ranking, seconds by name.
        params: verdict, evidence, transfer.target.
    """
    verdict, evidence = params["verdict"], params["evidence"]
    tolerance, level = verdict["tolerance"], f"{verdict['level']:.0%}"
    gain = tables["gain"]
    runs, patients = gain["n_runs"].max(), gain["n_patients"].max()
    return [
        Section(
            "What holds",
            "Each answer is computed from this run; the function in `src/prrmse/tables/findings.py` states its rule.",
            tables["findings"],
        ),
        Section(
            "Controls",
            "The same sweep from sources whose outcome is known in advance (`src/prrmse/experiments/control.py`). "
            "Drops in mean foreground Dice, means over pairs (without the final convolution), seeds and "
            "validation patients.",
            tables["controls"],
            "controls",
            "Drop in Dice for every kernel, from controls and from sources",
        ),
        Section(
            "Sources and their controls",
            "`reuse` is 1 - drop / drop of a random kernel, where that drop exceeds the tolerance: 1 is as good as the "
            "target's own, 0 no better than random. Last share: pairs whose drop exceeds that of the target's other "
            f"seed by at most {tolerance:g}, by the upper end of the paired {level} interval over patients.",
            source_summary(tables["relative"]),
        ),
        Section(
            "Initialisation or architecture",
            "Kernels swapped under both initialisations, in both networks. `reuse` is normalised by a random kernel in "
            f"the same layer; intervals ({level}) over seeds and patients.",
            tables["factorial"],
            "factorial",
            "Drop in Dice and normalised reuse, by network and initialisation",
        ),
        Section(
            "Effects",
            "`as published` is the contrast that the paper draws, in which initialisation and architecture are "
            "confounded. `initialisation` is the effect of sharing it.",
            tables["effects"],
        ),
        Section(
            "Alone and together",
            "`joint`: W, B and the RM and RV of the BN behind; `cumulative`: of this layer and all before; "
            "`reestimated`: W, then all running statistics re-estimated on unlabelled training images; "
            "`statistics_only`: re-estimated without a swap. Mean drop over layers; for `cumulative` the drop "
            "when all but the final convolution are swapped.",
            joint_summary(tables["joint"]),
            "joint",
            "Drop in Dice, one layer at a time and cumulatively",
        ),
        Section(
            "Does a layer's distance predict its drop?",
            "Spearman correlation over kernels, mean over sources; 1: the larger the distance, the larger the drop. "
            f"Intervals ({level}) over kernels. Baseline: `drop_random`, which knows nothing of the source.",
            tables["layers"],
        ),
        Section(
            "Can harm be told before the swap?",
            "How well a number that is known before a swap tells pairs that are not reusable from those that are "
            f"(AUROC; 0.5 is a guess), mean over sources; intervals ({level}) over pairs. `first_order`: one backward "
            "pass of the target for all pairs of all sources (`src/prrmse/compare/first_order.py`); `rmse`: the "
            "paper's distance; `scalars`: how many numbers the tensor has. `rho`: Spearman correlation with the drop.",
            tables["screen"],
            "screen",
            "Drop in Dice of every pair against its first-order estimate and its RMSE",
        ),
        Section(
            "Gains",
            f"The target trained with {evidence['samples']} patients from each source, all but the final convolution "
            f"reused, minus the same from its own initialisation; {runs} runs, {patients} validation patients, both "
            f"resampled for the interval ({level}). `probe`: all that is reused is kept, and the best final "
            f"convolution by cross-entropy is on top; its gain too is over training from the own initialisation. "
            f"`{NO_SOURCE}` with "
            "`probe`: features of untrained kernels.",
            gain,
        ),
        Section(
            "Which score predicts the gain?",
            f"Weighted Kendall tau of each score with the gain; intervals ({level}) over base models, runs and "
            "patients. Scores that compare with the target model have an advantage over those from few patients: that "
            "model was trained on all training patients, as in the paper. `regret`: Dice lost by taking the source "
            "that is ranked first. `p_above`, `p_below`: one-sided, of Kendall's tau, permuting base models; `p_any`: "
            "`p_above` corrected for the number of scores.",
            tables["ranking"].assign(score=tables["ranking"]["score"].map(lambda score: SCORES[score][1])),
            "ranking",
            "Rank correlation of every score with the realised gain, and the gains",
        ),
        Section(
            "Cost of scoring a source",
            "Seconds for one source on this machine, where other jobs may have run at the same time, and as a share "
            "of one fine-tuning.",
            tables["seconds"],
        ),
    ]


def joint_summary(joint: pd.DataFrame) -> pd.DataFrame:
    """Mean drop by net, source and variant; of ``cumulative`` the last; ``statistics_only``: without a swap."""
    layers = joint[joint["layer"] > 0]
    table = layers.pivot_table(index=["net", "source"], columns="variant", values="drop", sort=False)
    ends = layers[layers["variant"] == "cumulative"].groupby(["net", "source"], sort=False)["drop"].last()
    table["cumulative"] = ends
    table["statistics_only"] = joint[joint["layer"] == 0].set_index(["net", "source"])["drop"]
    counts = joint.groupby(["net", "source"], sort=False)[["n_patients", "n_seeds"]].max()
    table = table[["alone", "joint", "reestimated", "statistics_only", "cumulative"]]
    return table.join(counts).reset_index().rename_axis(columns=None)


def evidence_markdown(sections: Sequence[Section], provenance: Sequence[str]) -> str:
    """The page as Markdown; figures are in the same folder."""
    return f"# Evidence\n\nData: {', '.join(provenance)}. Ours, not the paper's.\n\n{sections_markdown(sections)}"


def sections_markdown(sections: Sequence[Section]) -> str:
    """These sections as Markdown; figures are in the same folder."""
    parts = []
    for section in sections:
        part = f"## {section.title}\n\n{section.text}\n\n{markdown_table(section.table)}"
        if section.figure:
            part += f"\n\n![{section.caption}]({section.figure}.png)"
        parts.append(part)
    return "\n\n".join(parts) + "\n"


def evidence_html(sections: Sequence[Section], provenance: Sequence[str], figures: Path) -> str:
    """The page without any external resource.

    Args:
        sections: of `evidence_sections`.
        provenance: of the data.
        figures: folder of the PNG files.
    """
    return template("evidence.html.j2").render(
        sections=sections,
        provenance=list(provenance),
        images={s.figure: inline(figures / f"{s.figure}.png") for s in sections if s.figure},
    )
