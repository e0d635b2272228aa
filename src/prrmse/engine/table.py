"""Sweeps as tables: Dice by patient and class of every change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import nn

from prrmse.engine.sweep import sweep
from prrmse.learning.dice import Counts, dice_table
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.names import PAIR_COLUMNS

log = logging.getLogger(__name__)


def sweep_table(
    network: nn.Module, source: Mapping[str, torch.Tensor], evaluation: Evaluation, *, engine: str, memory_mb: float
) -> pd.DataFrame:
    """`prrmse.engine.sweep.sweep` of every (kind, layer) pair that reaches the output, as a table.

    Args:
        network: the target.
        source: tensors by name, of the same shapes.
        evaluation, engine, memory_mb: see `prrmse.engine.sweep.sweep_changes`.

    Returns:
        One row per (pair, patient, class): kind, layer, module, final, scalars, patient, class, dice, baseline.
    """
    layers = reaching(network, evaluation.whole.image[:1])
    log.info("%d pairs on %d validation patients", len(layers), len(evaluation.patients))
    own, swapped = sweep(network, source, layers, evaluation, engine=engine, memory_mb=memory_mb)
    names = [{column: getattr(layer, column) for column in PAIR_COLUMNS} for layer in layers]
    return dice_by_change(*evaluation.rebased(network, own, swapped), names, evaluation)


def dice_by_change(
    own: Counts, changed: Sequence[Counts], names: Sequence[Mapping[str, str | int | bool]], evaluation: Evaluation
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
