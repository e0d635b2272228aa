"""The paper's eight claims, answered from the tables."""

from argparse import Namespace
from pathlib import Path

from prrmse.claims import claims
from prrmse.job import read_table, run, write_table


def main(a: Namespace) -> None:
    tables = {Path(path).stem: read_table(path) for path in a.tables}
    write_table(claims(tables), a.table)


run(main, "table", many="tables")
