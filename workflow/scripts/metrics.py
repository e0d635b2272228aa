"""The run in few numbers, for `dvc metrics` and `dvc plots`."""

import json
from argparse import Namespace
from pathlib import Path

from prrmse.files import write_text
from prrmse.run.job import run
from prrmse.tables.curves import curves_table
from prrmse.tables.metrics import metrics, reuse_plot, transfer_plot
from prrmse.tables.store import read_table, write_table


def main(a: Namespace) -> None:
    tables = {Path(path).stem: read_table(path) for path in a.tables}
    write_text(json.dumps(metrics(tables), indent=1) + "\n", a.metrics)
    write_table(transfer_plot(tables["transfer"]), f"{a.plots}/transfer.csv")
    write_table(reuse_plot(tables["network"]), f"{a.plots}/reuse.csv")
    write_table(curves_table(a.curves), f"{a.plots}/curves.csv")


run(main, "metrics", "plots", lists=["tables", "curves"])
