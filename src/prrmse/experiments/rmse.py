"""RMSE of kernels and biases between every two base models of a network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prrmse.compare.distance import rmse_table
from prrmse.nets.arrays import read_arrays
from prrmse.tables.store import with_ids


def rmse_all_pairs(checkpoints: Sequence[str | Path]) -> pd.DataFrame:
    """`rmse_table` for every two models of the same network and seed: the contract's ``rmse.csv``."""
    models = [read_arrays(path) for path in checkpoints]
    tables = []
    for (a, head_a), (b, head_b) in itertools.combinations(models, 2):
        if (head_a["net"], head_a["seed"]) == (head_b["net"], head_b["seed"]):
            ids = {"net": head_a["net"], "model_a": head_a["model"], "model_b": head_b["model"], "seed": head_a["seed"]}
            tables.append(with_ids(rmse_table(a, b, pd.DataFrame(head_a["layers"])), ids))
    return pd.concat(tables, ignore_index=True)
