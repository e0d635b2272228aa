"""See how much of one source one target of the study bears at once."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.together import together
from prrmse.run.job import run
from prrmse.tables.store import read_table, with_ids, write_table


def main(a: Namespace) -> None:
    p = a.params
    found = together(
        *(Path(a.target_checkpoint), Path(a.source_checkpoint), Path(a.data)),
        sweep=read_table(a.sweep),
        spec=p[f"nets.{a.net}"],
        compute=p["compute"],
        verdict=p["verdict"],
        engine=p["swap.engine"],
        memory_mb=p["swap.memory_mb"],
    )
    write_table(with_ids(found, {"net": a.net, "target": a.target, "source": a.source}), a.table)


run(
    main,
    *("net", "target", "source", "target-checkpoint", "source-checkpoint", "data", "sweep", "params", "table"),
    keep=True,
)
