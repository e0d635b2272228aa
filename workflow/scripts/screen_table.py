"""Whether what is known of a swap before it is made tells its verdict: table and figure."""

from argparse import Namespace
from pathlib import Path

from prrmse.figures.evidence import draw_screen
from prrmse.figures.style import Drawing
from prrmse.run.job import run
from prrmse.tables.screen import predicted, predictors_table
from prrmse.tables.store import read_table, read_tables, write_table


def main(a: Namespace) -> None:
    settings, out = a.params["verdict"], Path(a.out)
    pairs = predicted(read_tables(a.parts), read_table(a.verdict))
    write_table(predictors_table(pairs, settings), out / "screen.csv")
    draw_screen(pairs, Drawing(a.params["figures"], settings), out)


run(main, "params", "verdict", "out", lists=["parts"])
