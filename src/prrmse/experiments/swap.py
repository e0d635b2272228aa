"""Swap experiment: replace one (kind, layer) pair of the target by the source's, nothing else, no retraining.

The paper's steps 1 (kernels) and 3 (biases and BN parameters).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prrmse.data.slices import load_slices
from prrmse.engine.table import sweep_table
from prrmse.learning.evaluate import Evaluation
from prrmse.nets.checkpoint import load_checkpoint, load_network
from prrmse.settings import Compute, Network


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
