"""Score one source for the target, before any fine-tuning."""

from argparse import Namespace
from pathlib import Path

from prrmse.experiments.transferability import transferability
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    p = a.params
    settings = p[f"nets.{a.net}"], p["init"], p["compute"]
    checkpoints = Path(a.target_checkpoint), Path(a.source_checkpoint)
    chosen = {"samples": p["evidence.samples"], "seed": p["evidence.seeds"][0], "pixels": p["evidence.pixels"]}
    chosen |= {"engine": p["swap.engine"], "memory_mb": p["swap.memory_mb"]}
    found = transferability(*checkpoints, Path(a.data), *settings, **chosen)
    ids = {"net": a.net, "source": a.source, "source_seed": int(a.seed)}
    for table, path in zip(found, (a.table, a.layers, a.seconds), strict=True):
        write_table(table.assign(**ids), path)


run(
    main,
    *(
        "net",
        "source",
        "seed",
        "target-checkpoint",
        "source-checkpoint",
        "data",
        "params",
        "table",
        "layers",
        "seconds",
    ),
    keep=True,
)
