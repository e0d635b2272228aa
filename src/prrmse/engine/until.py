"""Sweeps that stop early: each change is measured on more and more patients until its verdict is known (ours).

The verdict of a whole sweep is whether the mean drop in Dice over all N patients is at most the tolerance. Here
patients come in an order drawn from their names, and after 3, 6, 12, ... of them those changes are done with of which
the verdict is decided. What is never decided is measured on all patients, as in a whole sweep. Two rules decide:

- ``guaranteed`` supposes nothing of the drops but their bounds: a patient's drop is at most the target's own Dice. A
  product that is a martingale if the mean is the tolerance (drawn without replacement, as in Waudby-Smith and Ramdas
  2020) exceeds 1 / error at any time with a probability of at most the error (Ville's inequality). What fails on few
  patients only cannot be excluded on few, so most patients are measured unless there are hundreds.
- ``normal`` is a t test with the correction for drawing without replacement. After k patients (k / (k + 6))^4 of the
  error rate may have been spent (a spending function, as Lan and DeMets 1983 have them). It is several times as fast,
  and blind to what fails on few patients only: then it errs far more often than the rate says (docs/screen.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from torch import nn

from prrmse.engine.sweep import Change, sweep_changes
from prrmse.learning.dice import Counts, mean_dice
from prrmse.learning.evaluate import Evaluation
from prrmse.nets.layers import normalises_by_batch
from prrmse.seeding import derive_seed
from prrmse.settings import Stopping

log = logging.getLogger(__name__)

# Patients at the first look; each further look has twice as many. Fewer than three have hardly a standard deviation.
FIRST = 3
# Of ``normal``: the share of the error rate that may be spent after k patients is (k / (k + SLOW)) ** POWER.
SLOW, POWER = 6, 4


class Rule(NamedTuple):
    """What a verdict is, and how one on some of the patients is found.

    Attributes:
        tolerance: the largest mean drop of a verdict "reusable".
        error: rate of verdicts other than those of a whole sweep.
        stopping: by which rule.
    """

    tolerance: float
    error: float
    stopping: Stopping = "guaranteed"


class Partial(NamedTuple):
    """Counts ``[P, C]`` of the network itself and of each change, zeros where a change was not ``measured`` [P]."""

    own: Counts
    changes: list[Counts]
    measured: list[np.ndarray]


def sweep_until_decided(
    network: nn.Module,
    changes: Sequence[Change],
    evaluation: Evaluation,
    rule: Rule,
    *,
    engine: str = "fast",
    memory_mb: float = 2000,
) -> Partial:
    """Counts of the network (`Evaluation.own_counts`), and of each change on as many patients as its verdict needs.

    Args:
        network, changes, evaluation, engine, memory_mb: as for `prrmse.engine.sweep.sweep_changes`. The network is
            measured in batches of all slices, the changes in batches of those of some patients: ``exact`` is so to the
            bit only where that makes no difference.
        rule: when a change is done with.
    """
    own = evaluation.own_counts(network)
    baseline = mean_dice(own, evaluation.classes)
    total = len(evaluation.patients)
    order = np.random.default_rng(derive_seed("until decided", *evaluation.patients)).permutation(total)
    found = [Counts(*np.zeros_like(own)) for _ in changes]
    measured = [np.zeros(total, bool) for _ in changes]
    ends = looks(total)
    if normalises_by_batch(network):
        log.warning("the network normalises by the statistics of a batch, so all patients are measured together")
        ends = [total]
    active, begin = list(range(len(changes))), 0
    for end in ends:
        if not active:
            break
        rows = np.sort(order[begin:end])
        part = evaluation.of_patients(rows)
        some = [changes[i] for i in active]
        unchanged, counted = sweep_changes(network, some, part, engine=engine, memory_mb=memory_mb)
        for i, counts in zip(active, counted, strict=True):
            same = all(map(np.array_equal, counts, unchanged))
            measured[i][rows] = True
            for whole, piece, base in zip(found[i], counts, own, strict=True):
                whole[rows] = base[rows] if same else piece
        if end == total:
            break
        drops = np.stack([(baseline - mean_dice(found[i], evaluation.classes))[order[:end]] for i in active])
        is_open = decide(drops, baseline[order], rule) < 0
        log.info("%d of %d changes are decided after %d of %d patients", (~is_open).sum(), len(active), end, total)
        active, begin = [i for i, undecided in zip(active, is_open, strict=True) if undecided], end
    return Partial(own, found, measured)


def looks(total: int) -> list[int]:
    """Numbers of patients at which to look; the last is all."""
    found = [FIRST]
    while found[-1] < total:
        found.append(2 * found[-1])
    return [*found[:-1], total]


def decide(drops: np.ndarray, baseline: np.ndarray, rule: Rule) -> np.ndarray:
    """1 where the mean drop over all patients is at most the tolerance, 0 where it is larger, -1 where that is open.

    Args:
        drops: of the patients seen, in their order, ``[changes, seen]``; NaN for one without a structure to measure,
            who does not count.
        baseline: the target's own Dice of all patients, in the same order ``[P]``.
        rule: tolerance, error rate, and how.
    """
    if rule.stopping == "guaranteed":
        return _by_martingale(drops, baseline, rule)
    return _by_t_test(drops, len(baseline), rule)


def _by_martingale(drops: np.ndarray, baseline: np.ndarray, rule: Rule) -> np.ndarray:
    # Beyond the tolerance; a patient who does not count lies at it, and so moves the sum to neither side.
    beyond = np.where(np.isfinite(drops), drops - rule.tolerance, 0.0)
    known = np.where(np.isfinite(baseline), baseline, rule.tolerance)
    # Bounds of whoever comes next: those of all who are left.
    high = np.maximum(np.maximum.accumulate((known - rule.tolerance)[::-1])[::-1], 0.0)
    low = np.minimum(np.minimum.accumulate((known - 1 - rule.tolerance)[::-1])[::-1], 0.0)
    now, most, total = np.ones((2, len(drops))), np.zeros((2, len(drops))), np.zeros(len(drops))
    with np.errstate(divide="ignore", invalid="ignore"):
        for i in range(len(baseline)):
            # The mean of those left, if that over all is the tolerance; beyond a bound it cannot be.
            mean = -total / (len(baseline) - i)
            most[np.stack([mean >= high[i], mean < low[i]])] = np.inf
            if i == drops.shape[1]:
                break
            x = beyond[:, i]
            step = np.stack([(high[i] - x) / (high[i] - mean), (x - low[i]) / (mean - low[i])])
            now = now * np.where(np.isnan(step), 1.0, np.maximum(step, 0.0))  # 0 / 0 where a bound is met, as foreseen
            most = np.fmax(most, now)
            total = total + x
    found = np.full(len(drops), -1)
    found[most[1] >= 1 / rule.error] = 0
    found[most[0] >= 1 / rule.error] = 1
    return found


def _by_t_test(drops: np.ndarray, total: int, rule: Rule) -> np.ndarray:
    seen = drops.shape[1]
    before = [0, *(end for end in looks(total) if end < seen)][-1]
    level = rule.error * (_spent(seen) - _spent(before))
    known = np.isfinite(drops)
    n = known.sum(1)
    enough = n >= FIRST
    count = np.where(enough, n, FIRST)
    mean = np.where(known, drops, 0.0).sum(1) / count
    variance = np.where(known, (drops - mean[:, None]) ** 2, 0.0).sum(1) / (count - 1)
    half = stats.t.ppf(1 - level, count - 1) * np.sqrt(variance / count * (1 - seen / total))
    found = np.full(len(drops), -1)
    found[enough & (mean + half <= rule.tolerance)] = 1
    found[enough & (mean - half > rule.tolerance)] = 0
    return found


def _spent(seen: int) -> float:
    """The share of the error rate that ``normal`` may have spent after so many patients."""
    return float((seen / (seen + SLOW)) ** POWER)
