"""Every swap beside its controls: tables, summary, figure."""

from argparse import Namespace
from pathlib import Path

from prrmse.evidence import control_summary, evidence_table, evidence_text
from prrmse.figures.evidence import draw_controls
from prrmse.job import read_table, read_tables, run, write_table, write_text


def main(a: Namespace) -> None:
    settings, out = a.params["verdict"], Path(a.out)
    controls = read_tables(a.parts)
    controls = controls[controls["class"] == "mean"].drop(columns="class")
    swaps = read_table(a.swaps)
    summary = control_summary(controls, settings["tolerance"])
    evidence = evidence_table(swaps, controls, settings)
    write_table(summary, out / "controls.csv")
    write_table(evidence, out / "evidence.csv")
    write_text(evidence_text(summary, evidence, settings), out / "evidence.md")
    draw_controls(controls, swaps, {**a.params["figures"], **settings}, out)


run(main, "params", "swaps", "out", many="parts")
