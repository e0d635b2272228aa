"""Fine-tune the target from one source, all but the final convolution reused, or fit a linear probe on its features."""

import time
from argparse import Namespace
from functools import partial
from pathlib import Path

import pandas as pd

from prrmse.experiments.probe import probe
from prrmse.experiments.transfer import transfer_run
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.learning.target import FewPatients
from prrmse.run.job import Afterwards, run
from prrmse.tables.store import write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    table = Path(a.table)
    few = FewPatients(
        *(a.net, p["transfer.target"], p["evidence.samples"], a.source, int(a.seed), Path(a.data)),
        *(Path(a.checkpoint) if a.checkpoint else None, p[f"nets.{a.net}"], p["init"], p["compute"]),
    )
    start = time.perf_counter()
    if a.arm == "probe":
        part = probe(few)
    else:
        part = transfer_run(few, a.arm, plan="all", settings=p["transfer.train"], resume=snapshot_of(table))
    seconds = time.perf_counter() - start
    ids = {"net": a.net, "arm": a.arm, "source": a.source, "source_seed": int(a.source_seed), "seed": int(a.seed)}
    write_table(part[part["class"] == "mean"].drop(columns="class").assign(**ids), table)
    write_table(pd.DataFrame([{**ids, "seconds": seconds}]), a.seconds)
    return partial(discard, snapshot_of(table))


run(
    main,
    *("net", "arm", "source", "source-seed", "seed", "data", "params", "table", "seconds"),
    optional=["checkpoint"],
    keep=True,
)
