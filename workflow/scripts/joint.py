"""Swap several tensors of one target at once by one source's."""

from argparse import Namespace
from pathlib import Path

from prrmse.job import run, write_table
from prrmse.joint import joint_experiment


def main(a: Namespace) -> None:
    checkpoints = Path(a.target_checkpoint), Path(a.source_checkpoint)
    engine = {"engine": a.params["swap.engine"], "memory_mb": a.params["swap.memory_mb"]}
    part = joint_experiment(*checkpoints, Path(a.data), a.params[f"nets.{a.net}"], a.params["compute"], **engine)
    write_table(part.assign(net=a.net, target=a.target, source=a.source, seed=int(a.seed)), a.table)


run(
    main,
    *("net", "target", "source", "seed", "target-checkpoint", "source-checkpoint", "data", "params", "table"),
)
