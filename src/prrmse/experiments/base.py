"""Base models: one training per network, data set, task and seed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prrmse.data.slices import load_slices
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.snapshot import snapshot_of
from prrmse.learning.training_run import training_run
from prrmse.names import split_model
from prrmse.nets.checkpoint import built_from
from prrmse.nets.initialisation import initialised_network
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, Network, Training


def train_base(
    net: str,
    model: str,
    seed: int,
    data: Path,
    spec: Network,
    init: str,
    settings: Training,
    compute: Compute,
    checkpoint: Path,
) -> pd.DataFrame:
    """Train a base model, write its checkpoint, evaluate it on its validation slices.

    Args:
        net, model, seed: which one; ``model`` is ``{dataset}-{task}``.
        data: processed data set.
        spec: the network.
        init: see `prrmse.nets.initialisation.initialised_network`.
        settings, compute: of the training.
        checkpoint: where to write.

    Returns:
        One row per (patient, class) with ``dice``, or per patient with ``mse`` (class ``mean``).
    """
    slices = load_slices(data)
    params = {"init": init, "net": spec.model_dump(), "base": settings.model_dump(), "compute": compute.model_dump()}
    return training_run(
        initialised_network(net, spec, init, model, seed),
        slices.split("train"),
        Evaluation.of_split(slices, "val", compute, spec),
        split_model(model)[1],
        settings,
        derive_seed(net, model, "train", seed),
        compute,
        title=f"{net} {model} seed {seed}",
        resume=snapshot_of(checkpoint),
        checkpoint=checkpoint,
        header={
            **built_from(net, spec),
            "model": model,
            "seed": seed,
            "params": params,
            "data": {"fingerprint": slices.fingerprint(), **slices.meta},
        },
    )
