"""Train a target of the study on few patients from the network's own start, and keep it as a guide to reuse."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.experiments.study import study_run
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.learning.target import FewPatients
from prrmse.run.job import Afterwards, run
from prrmse.tables.store import write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    checkpoint = Path(a.checkpoint)
    few = FewPatients(
        *(a.net, a.target, p["study.samples"], a.start, int(a.seed), Path(a.data), None),
        *(p[f"nets.{a.net}"], p["init"], p["compute"]),
    )
    reused, mode = "none", "finetune"
    part = study_run(
        few, reused, mode, settings=p["study.train"], resume=snapshot_of(checkpoint), checkpoint=checkpoint
    )
    ids = {"net": a.net, "target": a.target, "source": a.start, "reused": reused, "mode": mode}
    write_table(part.assign(**ids, seed=int(a.seed)), a.table)
    return partial(discard, snapshot_of(checkpoint))


run(main, "net", "target", "start", "seed", "data", "params", "checkpoint", "table", keep=True)
