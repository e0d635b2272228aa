"""Swap experiment: replace one (kind, layer) pair of the target by the source's, nothing else, no retraining.

The paper's steps 1 (kernels) and 3 (biases and BN parameters).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prrmse.engine.table import sweep_table
from prrmse.learning.target import Target
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.settings import Compute, Network


def swap_experiment(
    target: Path, source: Path, data: Path, spec: Network, compute: Compute, *, engine: str, memory_mb: float
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
    own = Target.load(target, data, spec, compute)
    state, _ = load_checkpoint(source)
    return sweep_table(own.network, state, own.validation(), engine=engine, memory_mb=memory_mb)
