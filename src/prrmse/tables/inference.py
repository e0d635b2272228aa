"""The tests and intervals on which answers rest: each with the null under which its rate of wrong answers is bounded.

An answer may be wrong in two ways, ``holds`` and ``does not hold``. With intervals of a level of 95 % each of them is
given with a probability of at most 2.5 % where there is no effect, so that both together stay within 5 %
(`bench/error_rates.py` simulates it). What a run is too small to tell is ``undecided``:
non-significance is never an answer, and "no difference" is concluded from an interval within a stated margin only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from prrmse.seeding import derive_seed
from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED

Values = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class Interval(NamedTuple):
    """A value and the ends of its interval; NaN where there are too few observations."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """``value (low to high)``, each by the format."""
        if math.isnan(self.low):
            return f"{self.value:{spec}} (no interval)"
        return f"{self.value:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def decide(holds: bool | np.bool_, fails: bool | np.bool_) -> str:
    """The answer of a rule of which at most one side is true; comparisons with NaN are false, hence undecided."""
    return HOLDS if holds else FAILS if fails else UNDECIDED


def crossed_interval(
    statistic: Callable[[Values], float], values: Values, level: float, *, cyclic: bool = False
) -> Interval:
    """Interval of a statistic over seeds and patients, which are crossed: every patient is measured in every seed.

    The variance is the sum of two jackknife variances, over seeds and over patients, and the quantile that of t with
    min(seeds, patients) - 1 degrees of freedom. For a mean of mu + a_s + b_p + e_sp with normal terms that covers at
    least as often as asked: the sum counts e twice, and among the degrees of freedom of a sum of variances the smallest
    is the conservative choice (Hsu 1938; Mickey and Brown 1966). With two seeds t is 12.7: an effect is decided only
    if it is many times larger than what the seeds differ by.

    Args:
        statistic: of an array ``[..., s, p]``.
        values: ``[..., seeds, patients]``.
        level: of the interval.
        cyclic: value s compares seed s with seed s + 1 (the last with the first), so that neighbours share a training.
            In y_s = mu + a_s + b_(s+1) they correlate, and the variance over n seeds has to be up to
            2 (n - 1) / (n - 2) times the jackknife's. Two seeds are one pair: no interval.

    Returns:
        Without ends for fewer than two seeds or patients.
    """
    seeds, patients = values.shape[-2:]
    value = statistic(values)
    if min(seeds, patients) < 2 or (cyclic and seeds < 3):
        return Interval(value, math.nan, math.nan)
    over_seeds = _jackknife_variance([statistic(np.delete(values, s, axis=-2)) for s in range(seeds)])
    over_patients = _jackknife_variance([statistic(np.delete(values, p, axis=-1)) for p in range(patients)])
    if cyclic:
        over_seeds *= 2 * (seeds - 1) / (seeds - 2)
    quantile = stats.t.ppf((1 + level) / 2, min(seeds, patients) - 1)
    half = float(quantile * math.sqrt(over_seeds + over_patients))
    return Interval(value, value - half, value + half)


def _jackknife_variance(left_out: list[float]) -> float:
    n = len(left_out)
    return float((n - 1) / n * np.square(np.array(left_out) - np.mean(left_out)).sum())


def crossed_frame(rows: pd.DataFrame, index: Sequence[str], column: str = "drop") -> pd.DataFrame:
    """Means of a column by ``index`` (rows) and every pair of seed and patient (columns, seeds first).

    Args:
        rows: seed, patient, ``column`` and the columns of ``index``.
        index: what makes a row.
        column: whose means; NaN where it was not measured.
    """
    names = ["seed", "patient"]
    wide = rows.groupby([*index, *names], sort=False)[column].mean().unstack(names)
    return wide.reindex(columns=pd.MultiIndex.from_product([wide.columns.unique(level) for level in names]))


def crossed_array(rows: pd.DataFrame, index: Sequence[str] = (), column: str = "drop") -> Values:
    """`crossed_frame` as ``[rows, seeds, patients]``; ``[seeds, patients]`` without an index."""
    if not index:
        alone: Values = rows.groupby(["seed", "patient"], sort=False)[column].mean().unstack().to_numpy()
        return alone
    wide = crossed_frame(rows, index, column)
    return wide.to_numpy().reshape(len(wide), *shape_of(wide))


def shape_of(wide: pd.DataFrame) -> tuple[int, ...]:
    """Numbers of seeds and of patients in the columns of a `crossed_frame`."""
    assert isinstance(wide.columns, pd.MultiIndex)
    return tuple(wide.columns.levshape)


def mean_of(values: Values) -> float:
    """The mean of all values that are there: a statistic for `crossed_interval`."""
    return float(np.nanmean(values))


def quantile_of_means(fraction: float) -> Callable[[Values], float]:
    """The smallest x that at least this fraction of the means over seeds and patients do not exceed.

    At least this fraction of the rows lie within a tolerance exactly if x does; but x is on a continuous scale.

    Args:
        fraction: above 0, at most 1.
    """

    def statistic(values: Values) -> float:
        means = np.sort(np.nanmean(values, axis=(-2, -1)))
        return float(means[max(math.ceil(fraction * len(means) - 1e-9) - 1, 0)])

    return statistic


def corrected_interval(differences: Values, level: float) -> Interval:
    """Interval of the mean of differences over the folds of a cross-validation ``[folds]``.

    Two folds share most of their training patients, so that their differences are not independent: the variance of the
    mean is taken as (1/F + 1/(F - 1)) times that of the differences (Nadeau and Bengio 2003, with n_test / n_train =
    1 / (F - 1)), the quantile as that of t with F - 1 degrees of freedom.
    """
    n = len(differences)
    value = float(differences.mean()) if n else math.nan
    if n < 2:
        return Interval(value, math.nan, math.nan)
    scale = math.sqrt(1 / n + 1 / (n - 1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * differences.std(ddof=1) * scale)
    return Interval(value, value - half, value + half)


def t_interval(values: Values, level: float) -> Interval:
    """Student's interval of a mean of independent values ``[n]``; without ends for fewer than two."""
    n = len(values)
    value = float(values.mean()) if n else math.nan
    if n < 2:
        return Interval(value, math.nan, math.nan)
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    return Interval(value, value - half, value + half)


def correlation_interval(rho: float, n: int, level: float) -> Interval:
    """Interval of a Spearman correlation of n independent pairs, by Fisher's z with the variance 1.06 / (n - 3).

    Fieller, Hartley and Pearson 1957. Of a mean of such correlations on the same n units it is conservative.
    """
    if n < 4 or not math.isfinite(rho):
        return Interval(rho, math.nan, math.nan)
    z, half = (
        math.atanh(max(-1 + 1e-12, min(1 - 1e-12, rho))),
        stats.norm.ppf((1 + level) / 2) * (1.06 / (n - 3)) ** 0.5,
    )
    return Interval(rho, math.tanh(z - half), math.tanh(z + half))


class Tail(NamedTuple):
    """Probabilities, without an effect, of a statistic at least as large, and at most as large, as the one found."""

    above: float
    below: float


def permutations(n: int, resamples: int, *identity: object) -> np.ndarray:
    """Orders of n things ``[R, n]``, the given one first: all, or ``resamples`` drawn ones where they are more."""
    if math.factorial(n) <= resamples:
        return np.array(list(itertools.permutations(range(n))))
    rng = np.random.default_rng(derive_seed("permutations", *identity))
    return np.vstack([np.arange(n), rng.permuted(np.tile(np.arange(n), (resamples - 1, 1)), axis=1)])


def tail_of(found: Values) -> Tail:
    """Of statistics under `permutations`, the first being that of the order found: exact whatever is distributed."""
    return Tail(float((found >= found[0] - 1e-9).mean()), float((found <= found[0] + 1e-9).mean()))


def corrected_tails(found: Sequence[Values]) -> list[float]:
    """One-sided p of each of several statistics, corrected for their number (Westfall and Young 1993).

    It is how often the smallest p of all is as small as its own.

    Args:
        found: of each, its values under the same `permutations`, ``[R]``.
    """
    # The share of permutations in which a statistic is at least as large, for every permutation.
    p = [1 - (stats.rankdata(own, method="min") - 1) / len(own) for own in found]
    smallest = np.min(p, axis=0) if p else np.array([])
    return [float((smallest <= own[0] + 1e-9).mean()) for own in p]


def concordance(x: Values, y: Values, orders: np.ndarray) -> Values:
    """Concordant less discordant pairs of x and the reordered y: Kendall's tau but for a constant, ``[R]``.

    Args:
        x, y: ``[n]``.
        orders: ``[R, n]``, of `permutations`.
    """
    return _over_pairs(_signs(x), _signs(y), orders)


def kendall_tau(x: Values, y: Values, orders: np.ndarray) -> Values:
    """Kendall's tau-b of x and the reordered y, over what is known (not NaN) of both, ``[R]``; 0 where undefined.

    Args:
        x, y: ``[n]``.
        orders: ``[R, n]``, of `permutations`.
    """
    known_x, known_y = (np.isfinite(v[:, None] - v[None]).astype(float) for v in (x, y))
    untied = _over_pairs(_signs(x) ** 2, known_y, orders) * _over_pairs(known_x, _signs(y) ** 2, orders)
    tau: Values = np.divide(concordance(x, y, orders), np.sqrt(untied), out=np.zeros(len(orders)), where=untied > 0)
    return tau


def _signs(values: Values) -> Values:
    """Which of each pair is larger, ``[n, n]``; 0 for equal ones and where one is NaN."""
    signs: Values = np.nan_to_num(np.sign(values[:, None] - values[None]))
    return signs


def _over_pairs(a: Values, b: Values, orders: np.ndarray) -> Values:
    """Sum over pairs of a and the reordered b, each ``[n, n]``."""
    total: Values = np.einsum("ij,rij->r", a, b[orders[:, :, None], orders[:, None, :]]) / 2
    return total


def weighted_auroc(score: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC ``[R]`` of a score for cases that are positive (bool), where cases have weights ``[R, cases]``.

    Ties count half; NaN where no case of one class has a weight.
    """
    above, below = score[positive], score[~positive]
    wins = (above[:, None] > below).astype(float) + 0.5 * (above[:, None] == below)
    of_above, of_below = weights[:, positive].astype(float), weights[:, ~positive].astype(float)
    total = of_above.sum(1) * of_below.sum(1)
    found: np.ndarray = ((of_above @ wins) * of_below).sum(1) / np.where(total > 0, total, np.nan)
    return found
