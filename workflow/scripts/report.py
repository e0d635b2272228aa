"""One self-contained page with the results."""

from argparse import Namespace
from pathlib import Path

from prrmse.config.params import plain
from prrmse.files import write_text
from prrmse.report.page import render_report
from prrmse.run.job import run
from prrmse.run.manifest import environment
from prrmse.tables.store import read_table


def main(a: Namespace) -> None:
    tables = {Path(path).stem: read_table(path) for path in a.tables}
    write_text(render_report(tables, Path(a.figures), plain(a.params), environment()), a.report)


run(main, "params", "figures", "report", lists=["tables"])
