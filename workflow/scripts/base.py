"""Train one base model, evaluate it, and write its training curve."""

import json
from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.experiments.base import train_base
from prrmse.files import write_text
from prrmse.learning.progress import Point, listening
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.run.job import Afterwards, run
from prrmse.tables.store import write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    checkpoint = Path(a.checkpoint)
    settings = p[f"nets.{a.net}"], p["init"], p["base"], p["compute"]
    points: list[Point] = []
    with listening(lambda _, point: points.append(point)):
        part = train_base(a.net, a.model, int(a.seed), Path(a.data), *settings, checkpoint)
    write_text("".join(f"{json.dumps(point)}\n" for point in points), a.curve)
    write_table(part.assign(net=a.net, model=a.model, seed=int(a.seed)), a.table)
    return partial(discard, snapshot_of(checkpoint))


run(main, "net", "model", "seed", "data", "params", "checkpoint", "table", "curve", keep=True)
