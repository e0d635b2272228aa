"""One run of the transfer experiment."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.experiments.transfer import transfer_run
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.learning.target import FewPatients
from prrmse.run.job import Afterwards, run
from prrmse.tables.store import read_table, write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    table = Path(a.table)
    few = FewPatients(
        *(a.net, p["transfer.target"], int(a.samples), a.source, int(a.seed), Path(a.data)),
        *(Path(a.checkpoint) if a.checkpoint else None, p[f"nets.{a.net}"], p["init"], p["compute"]),
    )
    part = transfer_run(
        few,
        a.arm,
        plan=p["transfer.plan"],
        reuse_final=p["transfer.reuse_final"],
        frozen_statistics=p["transfer.frozen_statistics"],
        verdict=read_table(a.verdict) if a.verdict else None,
        settings=p["transfer.train"],
        resume=snapshot_of(table),
    )
    ids = {"net": a.net, "samples": int(a.samples), "arm": a.arm, "source": a.source, "seed": int(a.seed)}
    write_table(part.assign(**ids), a.table)
    return partial(discard, snapshot_of(table))


run(
    main,
    "net",
    "samples",
    "arm",
    "source",
    "seed",
    "data",
    "params",
    "table",
    optional=["checkpoint", "verdict"],
    keep=True,
)
