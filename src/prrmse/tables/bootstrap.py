"""Intervals by resampling, with draws that derive from what they are for."""

from __future__ import annotations

import numpy as np

from prrmse.seeding import derive_seed
from prrmse.settings import Verdict


def bootstrap_mean(values: np.ndarray, settings: Verdict, *identity: object) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the mean over the last axis ``[..., P]``, resampling P; ignores NaN.

    Args:
        values: ``[..., P]``.
        settings: resamples, level.
        identity: what the draws are for.
    """
    return interval(resampled_means(values, settings.resamples, *identity), settings.level)


def resampled_means(values: np.ndarray, resamples: int, *identity: object) -> np.ndarray:
    """Means over the last axis ``[..., P]``, the same draws of P for all: ``[..., resamples]``; ignores NaN."""
    rng = np.random.default_rng(derive_seed(*identity))
    n = values.shape[-1]
    weight = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: np.ndarray = (np.where(known, values, 0.0) @ weight.T) / (known.astype(np.float64) @ weight.T)
    return means


def interval(samples: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper quantile over the last axis; ignores NaN."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(samples, [tail, 1 - tail], axis=-1)
    return low, high
