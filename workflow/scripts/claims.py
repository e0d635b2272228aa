"""The paper's eight claims, answered from the tables."""

from argparse import Namespace
from pathlib import Path

from prrmse.run.job import run
from prrmse.tables.claims import claims
from prrmse.tables.store import read_table, write_table


def main(a: Namespace) -> None:
    tables = {Path(path).stem: read_table(path) for path in a.tables}
    write_table(claims(tables, a.target, a.params["verdict"]), a.table)


run(main, "target", "params", "table", lists=["tables"])
