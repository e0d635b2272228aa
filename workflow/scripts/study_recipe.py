"""Train a base model otherwise than the study's, and measure it on validation and test patients."""

from argparse import Namespace
from functools import partial
from pathlib import Path

from prrmse.experiments.base import train_base
from prrmse.experiments.study import base_measured
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.learning.target import Target
from prrmse.run.job import Afterwards, run
from prrmse.tables.store import write_table


def main(a: Namespace) -> Afterwards:
    p = a.params
    recipe, checkpoint, data = p[f"study.recipes.{a.recipe}"], Path(a.checkpoint), Path(a.data)
    spec, compute, seed = p[f"nets.{recipe.net}"], p["compute"], int(a.seed)
    train_base(recipe.net, recipe.model, seed, data, spec, p["init"], recipe.train, compute, checkpoint)
    part = base_measured(Target.load(checkpoint, data, spec, compute))
    ids = {"recipe": a.recipe, "net": recipe.net, "model": recipe.model, "seed": seed}
    write_table(part.assign(**ids, **recipe.train.model_dump()), a.table)
    return partial(discard, snapshot_of(checkpoint))


run(main, "recipe", "seed", "data", "params", "checkpoint", "table", keep=True)
