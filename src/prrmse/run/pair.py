"""What the scripts that compare a target with a source share."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from prrmse.run.job import run
from prrmse.tables.store import write_table


def run_on_pair(experiment: Callable[..., pd.DataFrame]) -> None:
    """`run` for an experiment on a target and a source, as `prrmse.experiments.swap.swap_experiment` is one."""

    def main(a: Namespace) -> None:
        checkpoints = Path(a.target_checkpoint), Path(a.source_checkpoint)
        engine = {"engine": a.params["swap.engine"], "memory_mb": a.params["swap.memory_mb"]}
        part = experiment(*checkpoints, Path(a.data), a.params[f"nets.{a.net}"], a.params["compute"], **engine)
        write_table(part.assign(net=a.net, target=a.target, source=a.source, seed=int(a.seed)), a.table)

    names = ("net", "target", "source", "seed", "target-checkpoint", "source-checkpoint", "data", "params", "table")
    run(main, *names, keep=True)
