"""Distances between the parameters of two models: RMSE per layer, and the shift of normalised outputs.

The paper (arXiv 2008.03411) shows both in figures only; the formulas are our reconstruction from its figure legends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from prrmse.names import BN_KINDS
from prrmse.nets.arrays import Arrays

FloatArray = npt.NDArray[np.floating[Any]]


def rmse(a: FloatArray, b: FloatArray) -> float:
    """sqrt(mean over all elements of (a - b)^2), in double precision; 0 for equal tensors, symmetric."""
    return float(np.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


def relative_rmse(a: FloatArray, b: FloatArray) -> float:
    """RMSE over sqrt(mean a^2 + mean b^2): 0 for equal, 1 for uncorrelated tensors (ours, not the paper's).

    NaN if both are zero everywhere.
    """
    norm = float(np.sqrt(np.mean(a.astype(np.float64) ** 2) + np.mean(b.astype(np.float64) ** 2)))
    return rmse(a, b) / norm if norm > 0 else float("nan")


def rmse_table(a: Arrays, b: Arrays, layers: pd.DataFrame) -> pd.DataFrame:
    """RMSE of every kernel (W) and bias (B): kind, layer, module, final, rmse, rmse_relative."""
    rows = layers[layers["kind"].isin(["W", "B"])].copy()
    pairs = [(a[name], b[name]) for name in rows["tensor"]]
    rows["rmse"] = [rmse(x, y) for x, y in pairs]
    rows["rmse_relative"] = [relative_rmse(x, y) for x, y in pairs]
    return rows.drop(columns=["tensor", "scalars"])


def distance_table(a: Arrays, b: Arrays, layers: pd.DataFrame) -> pd.DataFrame:
    r"""Distances of every pair, of all kinds: columns below.

    kind, layer, module, tensor, scalars, rmse, rmse_relative, norm_ratio, cosine.
    ``norm_ratio`` is \|b\| / \|a\|, ``cosine`` the cosine of the angle between the two as vectors (ours; the paper
    has the RMSE of kernels only). NaN where a norm is zero.
    """
    rows = layers[["kind", "layer", "module", "tensor", "scalars"]].copy()
    pairs = [(a[name].astype(np.float64).ravel(), b[name].astype(np.float64).ravel()) for name in rows["tensor"]]
    rows["rmse"] = [rmse(x, y) for x, y in pairs]
    rows["rmse_relative"] = [relative_rmse(x, y) for x, y in pairs]
    norms = np.array([(np.linalg.norm(x), np.linalg.norm(y)) for x, y in pairs]).reshape(-1, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows["norm_ratio"] = norms[:, 1] / norms[:, 0]
        rows["cosine"] = np.array([x @ y for x, y in pairs]) / norms.prod(axis=1)
    return rows


def bn_shift(target: Arrays, source: Arrays, module: str, eps: float) -> dict[str, float]:
    """How swapping one kind of parameter of a normalisation moves its output, means over its channels (reconstruction).

    With y = g (x - m) / sqrt(v + eps) + b, primes for the source:
    MRM = g (m - m') / sqrt(v + eps) and MRB = b' - b are shifts, MRV = sqrt((v + eps) / (v' + eps))
    and MRW = g' / g scale (y - b). Without affine parameters g = 1 and b = 0; without running statistics (group and
    layer normalisation, instance normalisation as torch makes it) MRM and MRV do not exist and are NaN.

    Args:
        target, source: arrays by tensor name, of the same network.
        module: path of the normalisation.
        eps: of the target's normalisation; a swap of tensors does not change it.

    Returns:
        ``mrm, mrv, mrw, mrb`` (signed means) and ``*_abs``: mean |shift| for RM and RB, mean |log scale|
        for RV, and mean |g' - g| for RW: in units of the output's SD, since g'/g explodes near g = 0.
    """
    g, b = _values(target, module, "weight", 1.0), _values(target, module, "bias", 0.0)
    g1, b1 = _values(source, module, "weight", 1.0), _values(source, module, "bias", 0.0)
    m, v = _values(target, module, "running_mean", np.nan), _values(target, module, "running_var", np.nan)
    m1, v1 = _values(source, module, "running_mean", np.nan), _values(source, module, "running_var", np.nan)
    mean_shift = g * (m - m1) / np.sqrt(v + eps)
    scale = np.sqrt((v + eps) / (v1 + eps))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(g != 0, g1 / g, np.nan)
    return {
        "mrm": float(mean_shift.mean()),
        "mrv": float(scale.mean()),
        "mrw": float(np.nanmean(ratio)) if np.isfinite(ratio).any() else float("nan"),
        "mrb": float((b1 - b).mean()),
        "mrm_abs": float(np.abs(mean_shift).mean()),
        "mrv_abs": float(np.abs(np.log(scale)).mean()),
        "mrw_abs": float(np.abs(g1 - g).mean()),
        "mrb_abs": float(np.abs(b1 - b).mean()),
    }


STATISTICS = [f"{name}{suffix}" for suffix in ("", "_abs") for name in ("mrm", "mrv", "mrw", "mrb")]


def _values(arrays: Arrays, module: str, name: str, absent: float) -> npt.NDArray[np.float64]:
    """A tensor of a normalisation in double precision, or one neutral value if it has none."""
    values = arrays.get(f"{module}.{name}".lstrip("."))
    return np.array([absent]) if values is None else values.astype(np.float64)


def bn_shift_table(target: Arrays, source: Arrays, layers: pd.DataFrame, eps: Mapping[str, float]) -> pd.DataFrame:
    """`bn_shift` of every normalisation that has anything to swap: layer, module and the eight statistics.

    Args:
        target, source: arrays by tensor name, of the same network.
        layers: its inventory.
        eps: of each normalisation, by module.

    Returns:
        A row per normalisation. ``layer`` is its number among those with running statistics, or, where it has none,
        among those with a weight.
    """
    rows = layers[layers["kind"].isin(BN_KINDS)].drop_duplicates("module")
    found = [bn_shift(target, source, module, eps[module]) for module in rows["module"]]
    statistics = pd.DataFrame(found, columns=STATISTICS, dtype=float)
    return pd.concat([rows[["layer", "module"]].reset_index(drop=True), statistics], axis=1)
