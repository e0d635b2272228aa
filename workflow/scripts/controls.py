"""Every swap and its controls: tables and figure."""

from argparse import Namespace
from pathlib import Path

from prrmse.figures.evidence import draw_controls
from prrmse.figures.style import Drawing
from prrmse.run.job import run
from prrmse.tables.controls import control_summary, relative_table
from prrmse.tables.store import read_table, read_tables, write_table


def main(a: Namespace) -> None:
    settings, out = a.params["verdict"], Path(a.out)
    controls = read_tables(a.parts)
    controls = controls[controls["class"] == "mean"].drop(columns="class")
    swaps = read_table(a.swaps)
    write_table(control_summary(controls, settings), out / "controls.csv")
    write_table(relative_table(swaps, controls, settings), out / "relative.csv")
    draw_controls(controls, swaps, Drawing(a.params["figures"], settings), out)


run(main, "params", "swaps", "out", lists=["parts"])
