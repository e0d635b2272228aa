"""Swap every pair of one target by one control's."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.control import control_experiment
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    settings = a.params[f"nets.{a.net}"], a.params["init"], a.params["compute"]
    other = Path(a.other) if a.other else None
    engine = {"engine": a.params["swap.engine"], "memory_mb": a.params["swap.memory_mb"]}
    paths = Path(a.checkpoint), other, Path(a.data)
    part = control_experiment(a.control, *paths, int(a.seed), *settings, **engine)
    write_table(part.assign(net=a.net, target=a.target, source=a.control, seed=int(a.seed)), a.table)


run(main, "net", "target", "control", "seed", "checkpoint", "data", "params", "table", optional=["other"], keep=True)
