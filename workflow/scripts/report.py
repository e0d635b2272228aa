"""One self-contained page that tells the story."""

from argparse import Namespace
from pathlib import Path

from prrmse.job import read_table, run, write_text
from prrmse.manifest import environment
from prrmse.report import render_report


def main(a: Namespace) -> None:
    tables = {Path(path).stem: read_table(path) for path in a.tables}
    write_text(render_report(tables, Path(a.figures), a.params, environment()), a.report)


run(main, "params", "figures", "report", many="tables")
