"""Every figure of the paper by its number, and three of ours."""

from argparse import Namespace
from pathlib import Path

from prrmse.figures.draw import draw_figures
from prrmse.figures.style import Drawing
from prrmse.run.job import run
from prrmse.tables.curves import curves_table
from prrmse.tables.store import read_table


def main(a: Namespace) -> None:
    tables = {Path(path).stem: read_table(path) for path in a.tables}
    tables["curves"] = curves_table(a.curves)
    settings = Drawing(a.params["figures"], a.params["verdict"], a.params["transfer.target"])
    draw_figures(tables, settings, Path(a.out))


run(main, "params", "out", lists=["tables", "curves"])
