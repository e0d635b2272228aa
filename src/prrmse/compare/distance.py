"""Distances between the parameters of two models: RMSE per layer, and the shift of BN outputs.

Formulas are reconstructions from the legends of the paper (DESIGN section 1) [rec].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

State = Mapping[str, np.ndarray]

BN_EPS = 1e-5


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    """sqrt(mean over all elements of (a - b)^2), in double precision; 0 for equal tensors, symmetric."""
    return float(np.sqrt(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)))


def relative_rmse(a: np.ndarray, b: np.ndarray) -> float:
    """RMSE over sqrt(mean a^2 + mean b^2): 0 for equal, 1 for uncorrelated tensors (ours, not the paper's).

    NaN if both are zero everywhere.
    """
    norm = float(np.sqrt(np.mean(a.astype(np.float64) ** 2) + np.mean(b.astype(np.float64) ** 2)))
    return rmse(a, b) / norm if norm > 0 else float("nan")


def rmse_table(a: State, b: State, layers: pd.DataFrame) -> pd.DataFrame:
    """RMSE of every kernel (W) and bias (B): kind, layer, module, final, rmse, rmse_relative."""
    rows = layers[layers["kind"].isin(["W", "B"])].copy()
    pairs = [(a[name], b[name]) for name in rows["tensor"]]
    rows["rmse"] = [rmse(x, y) for x, y in pairs]
    rows["rmse_relative"] = [relative_rmse(x, y) for x, y in pairs]
    return rows.drop(columns=["tensor", "scalars"])


def distance_table(a: State, b: State, layers: pd.DataFrame) -> pd.DataFrame:
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


def bn_shift(target: State, source: State, module: str) -> dict[str, float]:
    """How swapping one kind of a BN layer moves its output, means over its channels [rec].

    With y = g (x - m) / sqrt(v + eps) + b, primes for the source:
    MRM = g (m - m') / sqrt(v + eps) and MRB = b' - b are shifts, MRV = sqrt((v + eps) / (v' + eps))
    and MRW = g' / g scale (y - b).

    Returns:
        ``mrm, mrv, mrw, mrb`` (signed means) and ``*_abs``: mean |shift| for RM and RB, mean |log scale|
        for RV, and mean |g' - g| for RW: in units of the output's SD, since g'/g explodes near g = 0.
    """
    g, b, m, v = (_channels(target, module, name) for name in ("weight", "bias", "running_mean", "running_var"))
    g1, b1, m1, v1 = (_channels(source, module, name) for name in ("weight", "bias", "running_mean", "running_var"))
    mean_shift = g * (m - m1) / np.sqrt(v + BN_EPS)
    scale = np.sqrt((v + BN_EPS) / (v1 + BN_EPS))
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


def _channels(state: State, module: str, name: str) -> np.ndarray:
    return state[f"{module}.{name}"].astype(np.float64)


def bn_shift_table(target: State, source: State, layers: pd.DataFrame) -> pd.DataFrame:
    """`bn_shift` of every BN layer: layer, module and the eight statistics."""
    rows = layers[layers["kind"] == "RM"]
    statistics = pd.DataFrame([bn_shift(target, source, module) for module in rows["module"]])
    return pd.concat([rows[["layer", "module"]].reset_index(drop=True), statistics], axis=1)
