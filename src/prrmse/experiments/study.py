"""Every target in turn, trained with few patients from every start and list of layers (ours).

Does it matter which layers are reused? A list is compared with lists drawn at random that reuse as many scalars, from
the same source, with the same patients and batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from prrmse.learning.evaluate import measure
from prrmse.learning.plans import fixed_by
from prrmse.learning.reach import reaching
from prrmse.learning.target import FewPatients, Target
from prrmse.learning.training_run import training_run
from prrmse.names import BLOCKS, SCRATCH, Layer
from prrmse.nets.checkpoint import built_from
from prrmse.seeding import derive_seed
from prrmse.settings import Training, Verdict
from prrmse.tables.verdict import verdict_table

# Choices are made on the first, everything that is reported is measured on the second.
MEASURED = ("val", "test")
# A random list has at least this share of the scalars of the one it is compared with, if any of so many orders has.
EQUAL = 0.95
ORDERS = 1000
# The study's modes that `prrmse.learning.plans.fixed_by` knows by another name.
PLAN_OF = {"freeze": "head", "rgn": "finetune", **{f"block{i}": name for i, name in enumerate(BLOCKS)}}


def study_run(
    of: FewPatients,
    reused: str,
    mode: str,
    *,
    sweep: pd.DataFrame | None = None,
    verdict: Verdict | None = None,
    settings: Training,
    resume: Path,
    checkpoint: Path | None = None,
) -> pd.DataFrame:
    """One training with few patients.

    What is not reused starts from the network's own pretrained weights, if it has any; a run whose source is
    ``scratch`` from random kernels.

    Args:
        of: network, patients and source; no checkpoint where the start is the network's own.
        reused: ``none``; ``all`` pairs that reach the output but the final convolution's; ``verdict``; or ``randomN``:
            draw N of as many scalars.
        mode: ``finetune``; ``freeze`` what is reused; ``probe``: freeze it for the first third of the steps, then train
            all (Kumar et al. 2022, LP-FT); ``blockN``: freeze it but for block N of `prrmse.names.BLOCKS` (Lee et al.
            2023, surgical fine-tuning); ``rgn``: train all, with rates by relative gradient norms (same, Auto-RGN).
        sweep, verdict: of the target by this source, and when a pair counts as reusable; needed by ``verdict`` and
            ``randomN``.
        settings: of the training.
        resume: file for the state of an unfinished training.
        checkpoint: where the trained network is written; nowhere if None.

    Returns:
        One row per (split, patient, class) with dice, n_train (patients trained on), pairs_reused, scalars_reused.
    """
    spec = of.spec.model_copy(update={"pretrained": "none"}) if of.source == SCRATCH else of.spec
    own = replace(of, spec=spec)
    network, drawn, validation = own.load()
    chosen: list[Layer] = []
    if reused != "none":
        layers = [layer for layer in reaching(network, validation.whole.image[:1]) if not layer.final]
        chosen = own.reuse(network, _chosen(layers, reused, sweep, verdict, own))
    seed = derive_seed(of.net, of.target, "study", of.samples, of.seed)
    title = f"{of.net} {of.target} n={of.samples} from {of.source}, {reused} {mode}, seed {of.seed}"
    table = training_run(
        network,
        drawn,
        validation,
        "seg",
        settings,
        seed,
        of.compute,
        frozen=fixed_by(PLAN_OF.get(mode, mode), network, chosen),
        rates="rgn" if mode == "rgn" else "equal",
        frozen_steps=max(settings.steps // 3, 1) if mode == "probe" else None,
        title=title,
        resume=resume,
        checkpoint=checkpoint,
        header={**built_from(of.net, spec), "model": of.target, "seed": of.seed},
    )
    test = measure(network, own.on("test"), "seg")
    measured = pd.concat([table.assign(split="val"), test.assign(split="test")], ignore_index=True)
    return measured.assign(
        n_train=len(drawn.patients()), pairs_reused=len(chosen), scalars_reused=sum(layer.scalars for layer in chosen)
    )


def _chosen(
    layers: Sequence[Layer], reused: str, sweep: pd.DataFrame | None, verdict: Verdict | None, of: FewPatients
) -> list[Layer]:
    """The pairs to take from the source."""
    if reused == "all":
        return list(layers)
    assert sweep is not None and verdict is not None, reused
    found = verdict_table(sweep, verdict)
    reusable = set(zip(found["kind"], found["layer"], found["reusable"], strict=True))
    listed = [layer for layer in layers if (*layer.pair, True) in reusable]
    if reused == "verdict":
        return listed
    return random_list(layers, sum(layer.scalars for layer in listed), of.net, of.target, of.source, of.seed, reused)


def random_list(layers: Sequence[Layer], scalars: int, *identity: object) -> list[Layer]:
    """Pairs in random order, each taken if the list then has at most this many scalars.

    One pair may hold half of all scalars, and a list without it is then far shorter than one with it. So orders are
    drawn until a list has at least `EQUAL` of the scalars; if none of `ORDERS` has, the fullest is taken.

    Args:
        layers: to draw from.
        scalars: at most so many.
        identity: what the draw is for.
    """
    rng = np.random.default_rng(derive_seed("random list", *identity))
    fullest: set[int] = set()
    fewest_left = scalars
    for _ in range(ORDERS):
        chosen, left = set(), scalars
        for i in rng.permutation(len(layers)):
            if layers[i].scalars <= left:
                chosen.add(int(i))
                left -= layers[i].scalars
        if left < fewest_left:
            fullest, fewest_left = chosen, left
        if fewest_left <= (1 - EQUAL) * scalars:
            break
    return [layers[i] for i in sorted(fullest)]


def base_measured(target: Target) -> pd.DataFrame:
    """A base model on the patients that no choice has seen, too: one row per (split, patient, class) with dice."""
    parts = {split: target.on(target.slices.split(split)) for split in MEASURED}
    tables = [measure(target.network, evaluation, "seg").assign(split=split) for split, evaluation in parts.items()]
    return pd.concat(tables, ignore_index=True)
