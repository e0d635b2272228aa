"""Base models: one training per network, data set, task and seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from prrmse.data.slices import Slices, load_slices
from prrmse.learning.device import describe
from prrmse.learning.evaluate import evaluate
from prrmse.learning.train import train
from prrmse.names import image_channels, split_model
from prrmse.nets.checkpoint import save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.nets.start import starting_point
from prrmse.seeding import derive_seed


def train_base(net: str, model: str, seed: int, data: Path, params: dict[str, Any], checkpoint: Path) -> pd.DataFrame:
    """Train a base model, write its checkpoint, evaluate it on its validation slices.

    Args:
        net, model, seed: which one; ``model`` is ``{dataset}-{task}``.
        data: processed data set.
        params: ``net`` (arguments, pretrained), ``init``, ``base`` and ``compute``.
        checkpoint: where to write.

    Returns:
        One row per (patient, class) with ``dice``, or per patient with ``mse`` (class ``mean``).
    """
    _, task = split_model(model)
    slices = load_slices(data)
    spec = params["net"]
    network = starting_point(net, spec, params["init"], model, seed)
    train(
        network,
        slices.split("train"),
        task,
        params["base"],
        derive_seed(net, model, "train", seed),
        params["compute"],
        image_channels=image_channels(spec),
        title=f"{net} {model} seed {seed}",
        resume=checkpoint.parent / f".{checkpoint.stem}.resume",
    )
    table = evaluate(network, slices, task, params["compute"], spec)
    header = {"net": net, "model": model, "seed": seed, "params": params}
    save_checkpoint(network.cpu(), checkpoint, {**header, **provenance(network, spec, slices, params["compute"])})
    return table


def provenance(network: nn.Module, spec: Mapping[str, Any], slices: Slices, compute: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint's header says of network, data and machine: arguments, factory, data, computed, layers.

    Args:
        network: what is saved.
        spec: ``arguments``, and ``factory`` where it is not ours.
        slices: the data set that it was trained on.
        compute: device, precision, threads.
    """
    return {
        "arguments": spec["arguments"],
        **({"factory": spec["factory"]} if "factory" in spec else {}),
        "data": {"fingerprint": slices.fingerprint(), **slices.meta},
        "computed": describe(compute),
        "layers": [layer._asdict() for layer in inventory(network)],
    }
