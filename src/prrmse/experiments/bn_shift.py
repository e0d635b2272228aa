"""Shift and scale of the outputs of normalisations for (target, source) pairs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from prrmse.compare.distance import bn_shift_table
from prrmse.names import BN_KINDS
from prrmse.nets.arrays import read_arrays
from prrmse.tables.store import with_ids

log = logging.getLogger(__name__)

EPS = 1e-5  # torch's default


def bn_shift_all_pairs(targets: Sequence[str | Path], sources: Sequence[str | Path]) -> pd.DataFrame:
    """`bn_shift_table` for these (target, source) pairs: the contract's ``bn_shift.csv``."""
    tables = []
    for target_path, source_path in zip(targets, sources, strict=True):
        (target, head), (source, source_head) = read_arrays(target_path), read_arrays(source_path)
        layers = pd.DataFrame(head["layers"])
        ids = {"net": head["net"], "target": head["model"], "source": source_head["model"], "seed": head["seed"]}
        tables.append(with_ids(bn_shift_table(target, source, layers, _eps(target_path, head, layers)), ids))
    return pd.concat(tables, ignore_index=True)


def _eps(path: str | Path, header: dict[str, Any], layers: pd.DataFrame) -> dict[str, float]:
    """``eps`` of each normalisation by module: that of the header, or `EPS` where it has none, with a warning."""
    known: dict[str, float] = header.get("eps", {})
    modules = layers.loc[layers["kind"].isin(BN_KINDS), "module"].unique()
    if unknown := [module for module in modules if module not in known]:
        log.warning(
            "%s: its header has no eps of %s%s; torch's default, %g, is used",
            *(path, unknown[0], f" and {len(unknown) - 1} more layers" if len(unknown) > 1 else "", EPS),
        )
    return {module: known.get(module, EPS) for module in modules}
