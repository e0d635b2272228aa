"""Swap experiment: replace one (kind, layer) pair of the target by the source's, nothing else, no retraining.

Paper, method step 1 and 3 (DESIGN section 1).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from prrmse.data.slices import load_slices
from prrmse.engine.sweep import sweep
from prrmse.learning.dice import Counts, dice_table
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.names import PAIR_COLUMNS
from prrmse.nets.checkpoint import load_checkpoint, load_network
from prrmse.settings import Compute, Network

log = logging.getLogger(__name__)


def swap_experiment(
    target: Path,
    source: Path,
    data: Path,
    spec: Network,
    compute: Compute,
    *,
    engine: str = "fast",
    memory_mb: float = 2000,
) -> pd.DataFrame:
    """Dice of the target on its validation slices, with each pair swapped in turn.

    Args:
        target, source: checkpoints of the same network.
        data: processed data set of the target.
        spec: the network.
        compute: where and in which dtype.
        engine, memory_mb: see `prrmse.engine.sweep.sweep`.

    Returns:
        One row per (pair, patient, class): kind, layer, module, final, scalars, patient, class,
        dice, baseline.
    """
    network, _ = load_network(target, spec.factory)
    source_state, _ = load_checkpoint(source)
    evaluation = Evaluation.of_split(load_slices(data), "val", compute, spec)
    return sweep_table(network, source_state, evaluation, engine=engine, memory_mb=memory_mb)


def sweep_table(
    network: nn.Module, source: Mapping[str, torch.Tensor], evaluation: Evaluation, *, engine: str, memory_mb: float
) -> pd.DataFrame:
    """`prrmse.engine.sweep.sweep` of every pair that takes part in the output, as `swap_experiment`'s table."""
    layers = reaching(network, evaluation.whole.image[:1])
    log.info("%d pairs on %d validation patients", len(layers), len(evaluation.patients))
    own, swapped = sweep(network, source, layers, evaluation, engine=engine, memory_mb=memory_mb)
    names = [{column: getattr(layer, column) for column in PAIR_COLUMNS} for layer in layers]
    return dice_by_change(*evaluation.rebased(network, own, swapped), names, evaluation)


def dice_by_change(
    own: Counts, changed: Sequence[Counts], names: Sequence[Mapping[str, Any]], evaluation: Evaluation
) -> pd.DataFrame:
    """Dice by patient and class of each change, its ``names`` in front, ``baseline`` (the network's own) behind."""
    baseline = dice_table(own, evaluation.patients, evaluation.classes).rename(columns={"dice": "baseline"})
    tables = []
    for name, counts in zip(names, changed, strict=True):
        table = dice_table(counts, evaluation.patients, evaluation.classes)
        for column, value in reversed(list(name.items())):
            table.insert(0, column, value)
        tables.append(table)
    return pd.concat(tables).merge(baseline, on=["patient", "class"], how="left", sort=False)
