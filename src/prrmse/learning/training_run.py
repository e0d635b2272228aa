"""One training from initialisation to table: train, evaluate, save. Every training is this one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from prrmse.data.slices import Slices
from prrmse.learning.device import describe
from prrmse.learning.evaluate import Evaluation, measure
from prrmse.learning.reach import ineffective_pairs
from prrmse.learning.train import train
from prrmse.names import Layer
from prrmse.nets.checkpoint import save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.settings import Compute, FrozenStatistics, Rates, Training


def training_run(
    network: nn.Module,
    slices: Slices,
    evaluation: Evaluation,
    task: str,
    settings: Training,
    seed: int,
    compute: Compute,
    *,
    frozen: Iterable[Layer] = (),
    frozen_statistics: FrozenStatistics = "both",
    frozen_steps: int | None = None,
    rates: Rates = "equal",
    title: str = "",
    resume: Path | None = None,
    checkpoint: Path | None = None,
    header: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Train a network in place, measure it on other slices, write its checkpoint.

    Args:
        network, slices, task, settings, seed, compute, frozen, frozen_statistics, rates, title, resume: see
            `prrmse.learning.train.train`.
        frozen_steps: of the steps, those in which ``frozen`` is; then all is trained, with a full learning rate again
            (Kumar et al. 2022, LP-FT). In all if None.
        evaluation: the slices that it is measured on.
        checkpoint: where to write it; nowhere if None.
        header: what the checkpoint's header says: at least ``net`` and ``arguments``, from which the network is built
            again, and ``factory`` where it is not ours. The machine and the network's layers are added.

    Returns:
        Of `prrmse.learning.evaluate.measure`.
    """
    fixed: dict[str, Any] = {"frozen": frozen, "frozen_statistics": frozen_statistics}
    trained = partial(train, network, slices, task, image_channels=evaluation.image_channels)
    if frozen_steps is None:
        trained(settings, seed, compute, rates=rates, title=title, resume=resume, **fixed)
    else:
        first, rest = (settings.model_copy(update={"steps": n}) for n in (frozen_steps, settings.steps - frozen_steps))
        free = [parameter for parameter in network.parameters() if parameter.requires_grad]
        # Without a snapshot: it is short, and after a kill gives the same bytes again.
        trained(first, seed, compute, title=f"{title}, first", **fixed)
        for parameter in free:
            parameter.requires_grad_(True)
        trained(rest, seed, compute, rates=rates, title=title, resume=resume)
    table = measure(network, evaluation, task)
    if checkpoint is not None:
        ineffective = ineffective_pairs(network, evaluation.whole.image[:1])
        layers = [layer._asdict() for layer in inventory(network, ineffective)]
        save_checkpoint(network.cpu(), checkpoint, {**(header or {}), "computed": describe(compute), "layers": layers})
    return table
