"""Go from one target of the study towards one source in steps."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.connect import connect
from prrmse.run.job import run
from prrmse.tables.store import with_ids, write_table


def main(a: Namespace) -> None:
    p = a.params
    found = connect(
        *(Path(a.target_checkpoint), Path(a.source_checkpoint), Path(a.data)),
        *(p[f"nets.{a.net}"], p["compute"]),
        engine=p["swap.engine"],
        memory_mb=p["swap.memory_mb"],
    )
    ids: dict[str, object] = {"net": a.net, "target": a.target, "source": a.source}
    for table, path in zip(found, (a.table, a.llfc), strict=True):
        write_table(with_ids(table, ids), path)


run(
    main,
    *("net", "target", "source", "target-checkpoint", "source-checkpoint", "data", "params", "table", "llfc"),
    keep=True,
)
