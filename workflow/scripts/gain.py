"""Train the target with few patients from one source, everything but the final convolution reused."""

import time
from argparse import Namespace
from pathlib import Path

import pandas as pd

from prrmse.experiments.transfer import transfer_run
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    p = a.params
    table = Path(a.table)
    start = time.perf_counter()
    part = transfer_run(
        a.net,
        p["transfer.target"],
        p["evidence.samples"],
        a.arm,
        a.source,
        int(a.seed),
        data=Path(a.data),
        checkpoint=Path(a.checkpoint) if a.checkpoint else None,
        spec=p[f"nets.{a.net}"],
        init=p["init"],
        plan="all",
        settings=p["transfer.train"],
        compute=p["compute"],
        resume=table.parent / f".{table.stem}.resume",
    )
    seconds = time.perf_counter() - start
    ids = {"net": a.net, "arm": a.arm, "source": a.source, "source_seed": int(a.source_seed), "seed": int(a.seed)}
    write_table(part[part["class"] == "mean"].drop(columns="class").assign(**ids), table)
    write_table(pd.DataFrame([{**ids, "seconds": seconds}]), a.seconds)


run(
    main,
    *("net", "arm", "source", "source-seed", "seed", "data", "params", "table", "seconds"),
    optional=["checkpoint"],
)
