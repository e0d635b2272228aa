"""Sweeps that stop early: each change is measured on more and more patients until its verdict is known (ours).

The verdict of a whole sweep is whether the mean drop in Dice over all N patients is at most the tolerance. Here
patients come in an order drawn from their names, and after 3, 6, 12, ... of them those changes are decided whose mean
drop differs from the tolerance by a t test, with the correction for drawing without replacement. Of the error rate,
(k / (k + 6))^4 may have been spent after k patients (a spending function, as Lan and DeMets 1983 have them): drops in
Dice are not normal, so decisions on few have to be clear ones. What is never decided is measured on all patients, as in
a whole sweep. Both numbers were chosen so that the rates that were measured keep what is asked for (docs/screen.md).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats
from torch import nn

from prrmse.engine.sweep import Change, normalises_by_batch, sweep_changes
from prrmse.learning.dice import Counts, mean_dice
from prrmse.learning.evaluate import Evaluation
from prrmse.seeding import derive_seed

log = logging.getLogger(__name__)

# Patients at the first look; each further look has twice as many. Fewer than three have hardly a standard deviation.
FIRST = 3
# The share of the error rate that may be spent after k patients is (k / (k + SLOW)) ** POWER.
SLOW, POWER = 6, 4


def sweep_until_decided(
    network: nn.Module,
    changes: Sequence[Change],
    evaluation: Evaluation,
    *,
    tolerance: float,
    error: float,
    engine: str = "fast",
    memory_mb: float = 2000,
) -> tuple[Counts, list[Counts]]:
    """Dice counts of the network, and of each change on as many patients as its verdict needs.

    Args:
        network, changes, evaluation, engine, memory_mb: as for `prrmse.engine.sweep.sweep_changes`.
        tolerance: the largest mean drop of a verdict "reusable".
        error: probability with which the verdict on a change may differ from that of a whole sweep.

    Returns:
        Counts ``[P, C]`` of the network itself (`Evaluation.own_counts`), and of each change; zeros for a patient on
        whom a change was not measured, whose Dice so is NaN.
    """
    own = evaluation.own_counts(network)
    baseline = mean_dice(own, evaluation.classes)
    total = len(evaluation.patients)
    if normalises_by_batch(network):
        log.warning("the network normalises by the statistics of a batch, so all patients are measured together")
        stages = [(total, 0.0)]
    else:
        stages = list(looks(total, error))
    order = np.random.default_rng(derive_seed("until decided", *evaluation.patients)).permutation(total)
    found = [Counts(*np.zeros_like(own)) for _ in changes]
    active, measured = list(range(len(changes))), 0
    for seen, level in stages:
        rows = np.sort(order[measured:seen])
        part = evaluation.of_patients(rows)
        some = [changes[i] for i in active]
        swept = sweep_changes(network, some, part, engine=engine, memory_mb=memory_mb)
        unchanged, counted = part.rebased(network, *swept)
        for i, counts in zip(active, counted, strict=True):
            same = all(map(np.array_equal, counts, unchanged))
            for whole, piece, base in zip(found[i], counts, own, strict=True):
                whole[rows] = base[rows] if same else piece
        measured = seen
        if seen == total:
            break
        drops = np.stack([(baseline - mean_dice(found[i], evaluation.classes))[order[:seen]] for i in active])
        open_ = decide(drops, total, tolerance, level) < 0
        log.info("%d of %d changes are decided after %d of %d patients", (~open_).sum(), len(active), seen, total)
        active = [i for i, is_open in zip(active, open_, strict=True) if is_open]
        if not active:
            break
    return own, found


def looks(total: int, error: float) -> Iterator[tuple[int, float]]:
    """Numbers of patients at which to look, and the level of each look's tests; the last is all, and tests nothing.

    Args:
        total: patients.
        error: probability of a wrong verdict, over all looks.
    """
    seen, spent = FIRST, 0.0
    while seen < total:
        level = error * (seen / (seen + SLOW)) ** POWER - spent
        spent += level
        yield seen, level
        seen *= 2
    yield total, 0.0


def decide(drops: np.ndarray, total: int, tolerance: float, level: float) -> np.ndarray:
    """1 where the mean drop over all patients is at most the tolerance, 0 where it is larger, -1 where that is open.

    Args:
        drops: of the patients seen, ``[changes, patients]``; NaN for one without a structure to measure.
        total: patients of a whole sweep.
        tolerance: that the mean is compared with.
        level: of each one-sided test.
    """
    known = np.isfinite(drops)
    n = known.sum(1)
    enough = n >= FIRST
    count = np.where(enough, n, FIRST)
    mean = np.where(known, drops, 0.0).sum(1) / count
    variance = np.where(known, (drops - mean[:, None]) ** 2, 0.0).sum(1) / (count - 1)
    error = np.sqrt(variance / count * (1 - drops.shape[1] / total))
    half = stats.t.ppf(1 - level, count - 1) * error
    found = np.full(len(drops), -1)
    found[enough & (mean + half <= tolerance)] = 1
    found[enough & (mean - half > tolerance)] = 0
    return found
