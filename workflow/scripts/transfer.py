"""One run of the transfer experiment."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.transfer import transfer_run
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.run.job import run
from prrmse.tables.store import read_table, write_table


def main(a: Namespace) -> None:
    p = a.params
    table = Path(a.table)
    part = transfer_run(
        a.net,
        p["transfer.target"],
        int(a.samples),
        a.arm,
        a.source,
        int(a.seed),
        data=Path(a.data),
        checkpoint=Path(a.checkpoint) if a.checkpoint else None,
        spec=p[f"nets.{a.net}"],
        init=p["init"],
        plan=p["transfer.plan"],
        reuse_final=p["transfer.reuse_final"],
        frozen_statistics=p["transfer.frozen_statistics"],
        verdict=read_table(a.verdict) if a.verdict else None,
        settings=p["transfer.train"],
        compute=p["compute"],
        resume=snapshot_of(table),
    )
    ids = {"net": a.net, "samples": int(a.samples), "arm": a.arm, "source": a.source, "seed": int(a.seed)}
    write_table(part.assign(**ids), a.table)
    discard(snapshot_of(table))


run(main, "net", "samples", "arm", "source", "seed", "data", "params", "table", optional=["checkpoint", "verdict"])
