"""Train a target of the study on few patients only, as the guide that a user would have."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.experiments.study import few_guide
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.learning.target import FewPatients
from prrmse.names import PRETRAINED
from prrmse.run.job import Afterwards, run
from prrmse.tables.store import write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    few = FewPatients(
        *(a.net, a.target, p["study.samples"], PRETRAINED, int(a.seed), Path(a.data), None),
        *(p[f"nets.{a.net}"], p["init"], p["compute"]),
    )
    checkpoint = Path(a.checkpoint)
    part = few_guide(few, p["study.train"], checkpoint)
    write_table(part.assign(net=a.net, target=a.target, seed=int(a.seed)), a.table)
    return partial(discard, snapshot_of(checkpoint))


run(main, "net", "target", "seed", "data", "params", "checkpoint", "table", keep=True)
