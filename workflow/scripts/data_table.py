"""Table of what each processed data set holds."""

from argparse import Namespace

import pandas as pd

from prrmse.data.prepare import summary
from prrmse.data.slices import load_slices
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    write_table(pd.concat([summary(load_slices(path)) for path in a.data]), a.table)


run(main, "table", lists=["data"])
