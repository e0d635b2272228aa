"""Means over patients of all base models."""

from argparse import Namespace

from prrmse.base import base_table
from prrmse.job import read_tables, run, write_table


def main(a: Namespace) -> None:
    write_table(base_table(read_tables(a.parts)), a.table)


run(main, "table", many="parts")
