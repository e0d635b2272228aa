"""Shift and scale of the outputs of normalisations for (target, source) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from prrmse.compare.distance import bn_shift_table
from prrmse.nets.arrays import read_arrays
from prrmse.tables.store import with_ids


def bn_shift_all_pairs(targets: Sequence[str | Path], sources: Sequence[str | Path]) -> pd.DataFrame:
    """`bn_shift_table` for these (target, source) pairs: the contract's ``bn_shift.csv``."""
    tables = []
    for target_path, source_path in zip(targets, sources, strict=True):
        (target, head), (source, source_head) = read_arrays(target_path), read_arrays(source_path)
        ids = {"net": head["net"], "target": head["model"], "source": source_head["model"], "seed": head["seed"]}
        tables.append(with_ids(bn_shift_table(target, source, pd.DataFrame(head["layers"]), head["eps"]), ids))
    return pd.concat(tables, ignore_index=True)
