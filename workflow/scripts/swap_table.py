"""Means over patients of all swaps, and the patients' mean Dice that verdicts are taken from."""

from argparse import Namespace

from prrmse.run.job import run
from prrmse.tables.means import swap_table
from prrmse.tables.store import read_tables, write_table


def main(a: Namespace) -> None:
    parts = read_tables(a.parts)
    write_table(swap_table(parts), a.table)
    write_table(parts[parts["class"] == "mean"].drop(columns="class"), a.drops)


run(main, "table", "drops", lists=["parts"])
