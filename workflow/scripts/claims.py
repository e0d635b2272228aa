"""The paper's eight claims, answered from the tables."""

from argparse import Namespace
from pathlib import Path

from prrmse.claims import claims
from prrmse.job import read_table, run, write_table


def main(a: Namespace) -> None:
    tables = {Path(path).stem: read_table(path) for path in a.tables}
    write_table(claims(tables, a.target), a.table)


run(main, "target", "table", many="tables")
