"""The paper's table of transfer gains: its printed numbers, and ours beside them."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from prrmse.tables.markdown import markdown_table


class PaperRow(NamedTuple):
    """One printed row: PSPNet, ACDC segmentation, validation Dice of class-0..3 and the printed mean."""

    number: int
    samples: int
    arm: str
    source: str
    classes: tuple[float, float, float, float]
    printed_mean: float

    @property
    def mean(self) -> float:
        """Mean of the four printed classes; 50-6 is the one row whose printed mean disagrees."""
        return sum(self.classes) / 4

    @property
    def foreground(self) -> float:
        """Mean of class-1..3, which leaves out the background that lifts every printed mean."""
        return sum(self.classes[1:]) / 3


_ARMS = (
    ("scratch", "none"),
    ("freeze", "t1-seg"),
    ("finetune", "t1-seg"),
    ("freeze", "t1-auto"),
    ("finetune", "t1-auto"),
    ("freeze", "rvsc-seg"),
    ("finetune", "rvsc-seg"),
)
_PRINTED = {
    10: (
        ((0.99, 0.62, 0.60, 0.70), 0.73),
        ((0.99, 0.47, 0.56, 0.67), 0.67),
        ((1.00, 0.48, 0.55, 0.71), 0.69),
        ((0.99, 0.70, 0.70, 0.84), 0.81),
        ((1.00, 0.75, 0.75, 0.88), 0.85),
        ((0.99, 0.57, 0.53, 0.72), 0.70),
        ((0.99, 0.54, 0.55, 0.74), 0.70),
    ),
    50: (
        ((1.00, 0.81, 0.82, 0.90), 0.88),
        ((0.99, 0.69, 0.75, 0.84), 0.82),
        ((0.99, 0.67, 0.75, 0.84), 0.81),
        ((1.00, 0.84, 0.83, 0.90), 0.89),
        ((1.00, 0.86, 0.86, 0.93), 0.91),
        ((0.99, 0.70, 0.70, 0.86), 0.72),
        ((0.99, 0.67, 0.74, 0.82), 0.81),
    ),
}
PAPER_ROWS = [
    PaperRow(i + 1, samples, *arm, *row)
    for samples, rows in _PRINTED.items()
    for i, (arm, row) in enumerate(zip(_ARMS, rows, strict=True))
]

SUMMARIES = ["mean", "mean_with_background"]
COLUMN_NAMES = {"mean": "mean foreground", "mean_with_background": "mean with background"}


def comparison(transfer: pd.DataFrame) -> pd.DataFrame:
    """Our mean and SD over seeds for each run and class, the paper's classes beside them, as text.

    Args:
        transfer: ``transfer.csv``.
    """
    classes = [c for c in dict.fromkeys(transfer["class"]) if c not in (*SUMMARIES, "background")]
    rows = []
    for (net, samples, arm, source), group in transfer.groupby(["net", "samples", "arm", "source"], sort=False):
        paper = next((p for p in PAPER_ROWS if (p.samples, p.arm, p.source) == (samples, arm, source)), None)
        paper = paper if net == "pspnet" else None
        row = {
            "net": net,
            "patients": f"{group['n_train'].max()}" + ("" if group["n_train"].max() == samples else f" (of {samples})"),
            "arm": (f"{paper.number} " if paper else "") + (str(arm) if source == "none" else f"{source} {arm}"),
        }
        for name in [*classes, *SUMMARIES]:
            values = group[group["class"] == name]["dice"]
            spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
            row[COLUMN_NAMES.get(name, name)] = f"{values.mean():.3f}{spread}"
        row["paper: classes 1-3"] = " ".join(f"{v:.2f}" for v in paper.classes[1:]) if paper else "-"
        row["paper: mean foreground"] = f"{paper.foreground:.3f}" if paper else "-"
        row["paper: printed mean"] = f"{paper.printed_mean:.2f}" if paper else "-"
        rows.append(row)
    table = pd.DataFrame(rows)
    own = [column for column in table if not str(column).startswith("paper:")]
    return table[own] if table.empty or (table["paper: printed mean"] == "-").all() else table


def note(transfer: pd.DataFrame, data: pd.DataFrame) -> str:
    """What the numbers are, in words."""
    provenance = ", ".join(sorted(set(data["provenance"])))
    short = transfer[transfer["n_train"] < transfer["samples"]]
    fewer = ""
    if len(short):
        asked = ", ".join(map(str, sorted(short["samples"].unique())))
        fewer = f" {asked} training patients were requested, {short['n_train'].max()} were available."
    beside = ""
    if any(str(column).startswith("paper:") for column in comparison(transfer)):
        beside = (
            " Paper: real ACDC, one run; its printed means include the background; the printed mean of 50-6 (0.72) "
            "disagrees with its own classes (0.81)."
        )
    n = transfer["seed"].nunique()
    over = f"mean ± SD over {n} seeds" if n > 1 else "one seed"
    return (
        f"Ours: {provenance} data, {over}; Dice per patient over all its "
        f"slices, then the mean over {transfer['n_patients'].max()} validation patients.{fewer}{beside}"
    )


def transfer_markdown(transfer: pd.DataFrame, data: pd.DataFrame) -> str:
    """The table in Markdown."""
    return f"{markdown_table(comparison(transfer))}\n\n{note(transfer, data)}\n"


def transfer_latex(transfer: pd.DataFrame, data: pd.DataFrame) -> str:
    """The table in LaTeX; needs booktabs and graphicx."""
    table = comparison(transfer)
    columns = "l" * 3 + "r" * (len(table.columns) - 3)
    tabular = table.to_latex(index=False, escape=True, column_format=columns).strip()
    text = (
        "\\begin{table}\n\\centering\n\\caption{" + note(transfer, data) + "}\n"
        "\\resizebox{\\textwidth}{!}{%\n" + tabular + "}\n\\end{table}\n"
    )
    return text.replace("±", r"$\pm$")
