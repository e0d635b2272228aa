"""Score one source for one target of the study, before any fine-tuning."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.transferability import transferability
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    p = a.params
    found = transferability(
        *(Path(a.target_checkpoint), Path(a.source_checkpoint), Path(a.data)),
        *(p[f"nets.{a.net}"], p["init"], p["compute"]),
        samples=p["study.samples"],
        seed=p["study.seeds"][0],
        pixels=p["evidence.pixels"],
        engine=p["swap.engine"],
        memory_mb=p["swap.memory_mb"],
    )
    write_table(found.scores.assign(net=a.net, target=a.target, source=a.source), a.table)


run(
    main,
    *("net", "target", "source", "target-checkpoint", "source-checkpoint", "data", "params", "table"),
    keep=True,
)
