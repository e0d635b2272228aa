"""Means over patients of all base models."""

from argparse import Namespace

from prrmse.run.job import run
from prrmse.tables.means import base_table
from prrmse.tables.store import read_tables, write_table


def main(a: Namespace) -> None:
    write_table(base_table(read_tables(a.parts)), a.table)


run(main, "table", lists=["parts"])
