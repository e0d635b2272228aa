"""Swap experiment: replace one (kind, layer) pair of the target by the source's, nothing else, no retraining.

Paper, method step 1 and 3 (DESIGN section 1).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from prrmse.checkpoint import load_checkpoint, load_network
from prrmse.data.slices import load_slices
from prrmse.device import make_deterministic
from prrmse.evaluate import Evaluation
from prrmse.layers import inventory
from prrmse.metrics import dice_table, mean_over_patients
from prrmse.sweep import sweep

log = logging.getLogger(__name__)

PAIR_COLUMNS = ["kind", "layer", "module", "final", "scalars"]


def swap_experiment(
    target: Path, source: Path, data: Path, compute: dict[str, Any], *, engine: str = "fast", memory_mb: float = 2000
) -> pd.DataFrame:
    """Dice of the target on its validation slices, with each pair swapped in turn.

    Args:
        target, source: checkpoints of the same network.
        data: processed data set of the target.
        compute: device, precision, threads, evaluation_batch_size.
        engine, memory_mb: see `prrmse.sweep.sweep`.

    Returns:
        One row per (pair, patient, class): kind, layer, module, final, scalars, patient, class,
        dice, baseline.
    """
    network, header = load_network(target)
    source_state, _ = load_checkpoint(source)
    evaluation = Evaluation(load_slices(data).split("val"), compute, header["arguments"]["out_channels"])
    layers = inventory(network)
    log.info("%d pairs on %d validation patients", len(layers), len(evaluation.patients))
    make_deterministic(compute["threads"])
    own, swapped = sweep(network, source_state, layers, evaluation, engine=engine, memory_mb=memory_mb)
    baseline = dice_table(own, evaluation.patients, evaluation.classes).rename(columns={"dice": "baseline"})
    tables = []
    for layer, counts in zip(layers, swapped, strict=True):
        table = dice_table(counts, evaluation.patients, evaluation.classes)
        for column in reversed(PAIR_COLUMNS):
            table.insert(0, column, getattr(layer, column))
        tables.append(table)
    return pd.concat(tables).merge(baseline, on=["patient", "class"], how="left", sort=False)


def swap_table(parts: pd.DataFrame) -> pd.DataFrame:
    """The contract's ``swap.csv``: means over patients.

    Args:
        parts: rows of `swap_experiment` with net, target, source and seed in front.
    """
    keys = ["net", "target", "source", "seed", *PAIR_COLUMNS, "class"]
    means = mean_over_patients(parts, keys)
    baseline = parts.groupby(keys, sort=False)["baseline"].mean().reset_index()
    return means.merge(baseline, on=keys, sort=False)
