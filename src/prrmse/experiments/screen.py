"""What can be known of a swap before it is made: its distances, and how far it moves the loss to first order (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prrmse.compare.first_order import screen_table
from prrmse.learning.reach import reaching
from prrmse.learning.target import Target
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.settings import Compute, Network


def screen_experiment(
    target: Path, sources: Sequence[Path], data: Path, spec: Network, compute: Compute
) -> pd.DataFrame:
    """`prrmse.compare.first_order.screen_table` of a target's validation slices, for the pairs that a sweep swaps.

    Args:
        target: checkpoint of the target.
        sources: those of the same network; named by their base models.
        data: processed data set of the target.
        spec: the network.
        compute: where and in which dtype.
    """
    own = Target.load(target, data, spec, compute)
    evaluation = own.validation()
    loaded = [load_checkpoint(path) for path in sources]
    states = {str(header["model"]): state for state, header in loaded}
    return screen_table(own.network, states, evaluation, reaching(own.network, evaluation.whole.image[:1]))
