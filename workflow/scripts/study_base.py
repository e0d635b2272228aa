"""Measure a base model on validation and test patients."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.study import base_measured
from prrmse.learning.target import Target
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    p = a.params
    target = Target.load(Path(a.checkpoint), Path(a.data), p[f"nets.{a.net}"], p["compute"])
    write_table(base_measured(target).assign(net=a.net, model=a.model, seed=int(a.seed)), a.table)


run(main, "net", "model", "seed", "data", "params", "checkpoint", "table", keep=True)
