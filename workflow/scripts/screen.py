"""What is known of every swap of one target before it is made."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.screen import screen_experiment
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    sources = [Path(path) for path in a.sources]
    settings = a.params[f"nets.{a.net}"], a.params["compute"]
    part = screen_experiment(Path(a.target_checkpoint), sources, Path(a.data), *settings)
    write_table(part.assign(net=a.net, target=a.target, seed=int(a.seed)), a.table)


run(main, "net", "target", "seed", "target-checkpoint", "data", "params", "table", lists=["sources"], keep=True)
