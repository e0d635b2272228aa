"""One training of the study from a source."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.experiments.study import study_run
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.learning.target import FewPatients
from prrmse.run.job import Afterwards, run
from prrmse.tables.store import read_table, write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    table = Path(a.table)
    few = FewPatients(
        *(a.net, a.target, p["study.samples"], a.source, int(a.seed), Path(a.data)),
        *(Path(a.checkpoint), p[f"nets.{a.net}"], p["init"], p["compute"]),
    )
    sweep = read_table(a.sweep) if a.sweep else None
    part = study_run(
        few,
        a.reused,
        a.mode,
        sweep=None if sweep is None else sweep[sweep["class"] == "mean"].drop(columns="class"),
        verdict=p["verdict"],
        settings=p["study.train"],
        resume=snapshot_of(table),
    )
    ids = {name: getattr(a, name) for name in ("net", "target", "source", "reused", "mode")}
    write_table(part.assign(**ids, seed=int(a.seed)), table)
    return partial(discard, snapshot_of(table))


run(
    main,
    *("net", "target", "source", "reused", "mode", "seed", "data", "checkpoint", "params", "table"),
    optional=["sweep"],
    keep=True,
)
