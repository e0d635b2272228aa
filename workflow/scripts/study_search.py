"""Search the best start of one target of the study by short trainings, as `prrmse advise --budget` does."""

import math
import shutil
from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.api import StateLike
from prrmse.data.slices import load_slices
from prrmse.learning.snapshot import snapshot_of
from prrmse.nets.initialisation import initialised_network
from prrmse.run.job import Afterwards, run
from prrmse.search import search
from prrmse.tables.store import write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    spec, settings, seed, table = p[f"nets.{a.net}"], p["study.search"], int(a.seed), Path(a.table)
    sources: dict[str, StateLike] = dict(zip(a.sources, a.checkpoints, strict=True))
    has_weights = spec.weights is not None
    folder = snapshot_of(table)
    found = search(
        *(spec.factory or a.net, load_slices(a.data), sources, math.inf),
        arguments=spec.keywords,
        plans=["finetune"],
        pretrained=initialised_network(a.net, spec, p["init"], a.target, seed).state_dict() if has_weights else None,
        folds=settings.folds,
        rounds=settings.rounds,
        samples=p["study.samples"],
        settings=p["study.train"].model_copy(update={"steps": settings.steps}),
        compute=p["compute"],
        seed=seed,
        folder=folder,
        replace=True,
        trust=spec.trust,
    )
    ids = {"net": a.net, "target": a.target, "seed": seed, "full": p["study.train"].steps}
    write_table(found.curves.assign(**ids), table)
    return partial(shutil.rmtree, folder)


run(main, "net", "target", "seed", "data", "params", "table", lists=["sources", "checkpoints"], keep=True)
