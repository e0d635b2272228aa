"""Initialisation against architecture: tables and figure."""

import json
from argparse import Namespace
from pathlib import Path

import pandas as pd

from prrmse.figures.evidence import draw_factorial
from prrmse.figures.style import Drawing
from prrmse.names import OTHER_INIT
from prrmse.run.job import run
from prrmse.tables.factorial import effects_table, factorial_table, kernel_drops
from prrmse.tables.store import read_tables, write_table


def main(a: Namespace) -> None:
    settings, out = a.params["verdict"], Path(a.out)
    own, other = read_tables(a.own), read_tables(a.other)
    inits = json.loads(a.inits)  # of each network's base models
    rows = pd.concat(
        [own.assign(init=own["net"].map(inits)), other.assign(init=other["net"].map(inits).map(OTHER_INIT))],
        ignore_index=True,
    )
    drops = kernel_drops(rows[rows["class"] == "mean"])
    random = drops["source"] == "random"
    cells = factorial_table(drops[~random], drops[random], settings)
    write_table(cells, out / "factorial.csv")
    write_table(effects_table(drops[~random], drops[random], settings), out / "effects.csv")
    draw_factorial(cells, Drawing(a.params["figures"]), out)


run(main, "params", "inits", "out", lists=["own", "other"])
