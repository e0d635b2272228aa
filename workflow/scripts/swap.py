"""Swap every pair of one target by one source's."""

from argparse import Namespace
from pathlib import Path

from prrmse.job import run, write_table
from prrmse.swap import swap_experiment


def main(a: Namespace) -> None:
    checkpoints = Path(a.target_checkpoint), Path(a.source_checkpoint)
    engine = {"engine": a.params["swap.engine"], "memory_mb": a.params["swap.memory_mb"]}
    part = swap_experiment(*checkpoints, Path(a.data), a.params[f"nets.{a.net}"], a.params["compute"], **engine)
    write_table(part.assign(net=a.net, target=a.target, source=a.source, seed=int(a.seed)), a.table)


run(
    main,
    *("net", "target", "source", "seed", "target-checkpoint", "source-checkpoint", "data", "params", "table"),
)
