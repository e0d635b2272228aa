"""RMSE of kernels and biases between every two base models of a network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from prrmse.compare.distance import rmse_table
from prrmse.nets.arrays import read_arrays, read_header
from prrmse.tables.store import with_ids


def rmse_all_pairs(checkpoints: Sequence[str | Path]) -> pd.DataFrame:
    """`rmse_table` for every two models of the same network and seed: the contract's ``rmse.csv``.

    Only the models of one network and seed are in memory at a time.
    """
    groups: dict[tuple[str, int], list[str | Path]] = {}
    for path in checkpoints:
        header = read_header(path)
        groups.setdefault((header["net"], header["seed"]), []).append(path)
    return pd.concat([table for paths in groups.values() for table in _tables(paths)], ignore_index=True)


def _tables(paths: Sequence[str | Path]) -> Iterator[pd.DataFrame]:
    """`rmse_table` of every two of these models."""
    models = [read_arrays(path) for path in paths]
    for (a, head_a), (b, head_b) in itertools.combinations(models, 2):
        ids = {"net": head_a["net"], "model_a": head_a["model"], "model_b": head_b["model"], "seed": head_a["seed"]}
        yield with_ids(rmse_table(a, b, pd.DataFrame(head_a["layers"])), ids)
