"""The page of evidence, as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from prrmse.report.page import inline, template
from prrmse.tables.controls import source_summary
from prrmse.tables.markdown import markdown_table
from prrmse.tables.ranking import SCORES, START


class Section(NamedTuple):
    """A heading, what is to be said, a table, a figure's name and what it shows."""

    title: str
    text: str
    table: pd.DataFrame
    figure: str = ""
    caption: str = ""


def evidence_sections(tables: Mapping[str, pd.DataFrame], params: Mapping[str, Any]) -> list[Section]:
    """What stands on the page, in order.

    Args:
        tables: findings, controls, relative, joint, factorial, effects, layers, gain, ranking, seconds by name.
        params: verdict, evidence, transfer.target.
    """
    verdict, evidence = params["verdict"], params["evidence"]
    tolerance, level = verdict["tolerance"], f"{verdict['level']:.0%}"
    gain = tables["gain"]
    runs, patients = gain["n_runs"].max(), gain["n_patients"].max()
    return [
        Section(
            "What holds",
            "Each answer is computed from this run by a rule that its function in `src/prrmse/findings.py` states.",
            tables["findings"],
        ),
        Section(
            "Controls",
            "The same sweep from sources of which it is known what must come out; `src/prrmse/controls.py` says what "
            "each is. Losses of mean foreground Dice, means over pairs (the final convolution left out), seeds and "
            "validation patients.",
            tables["controls"],
            "controls",
            "Loss of Dice for every kernel, from controls and from sources",
        ),
        Section(
            "Sources beside their controls",
            "`reuse` is 1 - drop / drop of a random kernel, where that does harm: 1 as good as the target's own, 0 no "
            "better than random. The last share: pairs whose loss exceeds that of the target's other seed by at most "
            f"{tolerance:g}, by the upper end of the paired {level} interval over patients.",
            source_summary(tables["relative"]),
        ),
        Section(
            "Start or network",
            "Kernels swapped under both starts, in both networks. `reuse` is normalised by a random kernel in the same "
            f"place; intervals ({level}) over patients.",
            tables["factorial"],
            "factorial",
            "Loss of Dice and normalised reuse, by network and start",
        ),
        Section(
            "Effects",
            "`as published` is the contrast that the paper draws, in which start and network cannot be told apart.",
            tables["effects"],
        ),
        Section(
            "Alone and together",
            "`joint`: W, B and the RM and RV of the BN behind; `cumulative`: of this layer and all before; "
            "`reestimated`: W, then all running statistics estimated again on unlabelled training images. Mean loss "
            "over layers; for `cumulative` the loss when all but the final convolution are swapped.",
            joint_summary(tables["joint"]),
            "joint",
            "Loss of Dice, one layer at a time and cumulatively",
        ),
        Section(
            "Does a layer's distance tell its loss?",
            "Spearman correlation over kernels, mean over sources; 1: the larger the distance, the larger the loss. "
            f"Intervals ({level}) over base models. `drop_random` knows no source: what a distance has to beat.",
            tables["layers"],
        ),
        Section(
            "Gains",
            f"The target trained with {evidence['samples']} patients from each source, all but the final convolution "
            f"reused, less the same from its own start; {runs} runs, {patients} validation patients, both resampled "
            f"for the interval ({level}). `{START}` with `freeze`: untrained kernels, frozen.",
            gain,
        ),
        Section(
            "Which score predicts the gain?",
            f"Weighted Kendall tau of each score with the gain; intervals ({level}) over base models, runs and "
            "patients. What compares with the target model knows more than a score from few patients could: that model "
            "was trained on all training patients, as in the paper. `regret`: Dice given away by taking the source "
            "that is ranked first.",
            tables["ranking"].assign(score=tables["ranking"]["score"].map(lambda score: SCORES[score][1])),
            "ranking",
            "Rank correlation of every score with the realised gain, and the gains",
        ),
        Section(
            "What looking costs",
            "Seconds for one source, on the machine of this run while other jobs may have run, and as a share of one "
            "fine-tuning.",
            tables["seconds"],
        ),
    ]


def joint_summary(joint: pd.DataFrame) -> pd.DataFrame:
    """Mean loss by net, source and variant; of ``cumulative`` the last; ``by_itself``: estimating again, no swap."""
    layers = joint[joint["layer"] > 0]
    table = layers.pivot_table(index=["net", "source"], columns="variant", values="drop", sort=False)
    ends = layers[layers["variant"] == "cumulative"].groupby(["net", "source"], sort=False)["drop"].last()
    table["cumulative"] = ends
    table["by_itself"] = joint[joint["layer"] == 0].set_index(["net", "source"])["drop"]
    counts = joint.groupby(["net", "source"], sort=False)[["n_patients", "n_seeds"]].max()
    table = table[["alone", "joint", "reestimated", "by_itself", "cumulative"]]
    return table.join(counts).reset_index().rename_axis(columns=None)


def evidence_markdown(sections: Sequence[Section], provenance: Sequence[str]) -> str:
    """The page as Markdown; figures lie beside it."""
    parts = [f"# Evidence\n\nData: {', '.join(provenance)}. Ours, not the paper's."]
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
