"""Successive halving: what it trains, what it drops, when it stops, and how often its answer is wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from prrmse.experiments import halving
from prrmse.experiments.halving import (
    NO_TRANSFER,
    TRANSFER,
    UNDECIDED,
    Candidate,
    answer_of,
    candidates_of,
    default_of,
    folds_of,
    halve,
    ranking_of,
    steps_until,
)
from prrmse.names import PRETRAINED, SCRATCH
from prrmse.tables.inference import corrected_interval

FOLDS, ROUNDS = 5, 4
PATIENTS = [[f"p{fold}{i}" for i in range(2)] for fold in range(FOLDS)]
MANY = candidates_of(["a", "b", "c"])


def measured(gains, *, noise=0.0, seed=0, calls=None):
    """Trainings whose Dice is 0.5 and the candidate's gain, with a part common to a fold and one of each training."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.03, FOLDS)

    def measure(candidate, fold, round_):
        if calls is not None:
            calls.append((candidate, fold, round_))
        own = rng.normal(0, noise)
        return {p: 0.5 + common[fold] + gains.get(str(candidate), 0.0) + own for p in PATIENTS[fold]}

    return measure


def test_the_better_half_goes_on_and_scratch_always():
    calls = []
    gains = {"a finetune": 0.3, "b finetune": 0.2, "c head": -0.2, "a half": 0.1, "b half": 0.05}
    rows = halve(MANY, FOLDS, ROUNDS, measured(gains, noise=0.2, seed=3, calls=calls))
    trained = [{c for c, _, r in calls if r == round_} for round_ in range(ROUNDS)]
    assert len(trained[0]) == 10
    assert [len(t) for t in trained if t] == [10, 6, 4, 3][: sum(map(bool, trained))]
    assert all(Candidate(SCRATCH, "") in t for t in trained if t)
    for before, after in itertools.pairwise(trained):
        assert after <= before
    best = rows[rows["round"] == 0].groupby(["source", "plan"])["dice"].mean().drop((SCRATCH, "")).nlargest(5).index
    assert {(c.source, c.plan) for c in trained[1]} == {*best, (SCRATCH, "")}


def test_with_pretrained_weights_a_gain_is_over_them_and_both_own_starts_go_on():
    calls = []
    many = candidates_of(["a", "b", "c", "d"], ["finetune"], pretrained=True)
    gains = {"scratch": -0.3, "a finetune": 0.2, "b finetune": 0.1, "c finetune": -0.1, "d finetune": -0.2}
    rows = halve(many, FOLDS, ROUNDS, measured(gains, noise=0.1, calls=calls), level=1 - 1e-9)
    for round_ in range(ROUNDS):
        assert {c.source for c, _, r in calls if r == round_} >= {SCRATCH, PRETRAINED}
    ranking = ranking_of(rows, len(many)).set_index("source")
    assert ranking["gain"][PRETRAINED] == 0
    assert ranking["gain"][SCRATCH] == pytest.approx(-0.3, abs=0.15)
    assert ranking["gain"]["a"] == pytest.approx(0.2, abs=0.15)
    worse = ranking_of(halve(many, FOLDS, 1, measured({"pretrained": 0.4, "scratch": 0.5})), len(many))
    assert answer_of(worse) == NO_TRANSFER, "scratch is no source"
    assert default_of(worse) == SCRATCH
    assert worse.set_index("source")["gain"]["a"] == pytest.approx(-0.5), "over the better of the two"


def test_every_patient_is_held_out_once_and_the_folds_are_seeded():
    patients = [f"p{i}" for i in range(11)]
    folds = folds_of(patients, 4, seed=0)
    assert sorted(p for fold in folds for p in fold) == sorted(patients)
    assert {len(fold) for fold in folds} == {2, 3}
    assert folds == folds_of(reversed(patients), 4, seed=0)
    assert folds != folds_of(patients, 4, seed=1)


def test_steps_double_up_to_all():
    assert [steps_until(r, 4, 400) for r in range(4)] == [50, 100, 200, 400]
    assert steps_until(0, 4, 3) == 1


@pytest.mark.parametrize(("trainings", "rounds", "folds"), [(0, 0, 0), (9, 0, 0), (25, 1, 2), (57, 1, 5), (79, 1, 5)])
def test_where_it_is_ended_the_last_complete_round_or_the_first_ones_complete_folds_count(trainings, rounds, folds):
    """Ten candidates in the first round, six in the second; the last of them is the 80th training."""
    measure, left = measured({"a finetune": 0.3}, noise=0.1), iter(range(trainings))
    rows = halve(MANY, FOLDS, ROUNDS, lambda *unit: None if next(left, None) is None else measure(*unit))
    assert rows["round"].nunique() == rounds
    assert rows["fold"].nunique() == folds
    assert answer_of(ranking_of(rows, len(MANY))) == UNDECIDED or folds == FOLDS


def test_gains_are_over_scratch_of_the_same_round():
    def measure(candidate, fold, round_):
        return dict.fromkeys(PATIENTS[fold], 0.1 * round_ + (0.2 if candidate.source == "a" else 0.0) + 0.001 * fold)

    two = candidates_of(["a", "b"], ["finetune"])
    ranking = ranking_of(halve(two, FOLDS, 2, measure, level=1 - 1e-12), 3)
    dropped = ranking[ranking["source"] == "b"].iloc[0]
    assert dropped["round"] == 0
    assert dropped["gain"] == pytest.approx(0.0)
    kept = ranking.iloc[0]
    assert (kept["source"], kept["gain"]) == ("a", pytest.approx(0.2))


def test_a_patient_counts_where_both_have_been_measured():
    """Scratch was not measured on one patient of the first fold, where the source has 0, and on none of the second."""

    def measure(candidate, fold, round_):
        own = dict.fromkeys(PATIENTS[fold], 0.7 if candidate.source == "a" else 0.5)
        if fold == 0:
            own[PATIENTS[0][0]] = 0.0
        missing = {0: PATIENTS[0][:1], 1: PATIENTS[1]}.get(fold, []) if candidate.source == SCRATCH else []
        return {patient: dice for patient, dice in own.items() if patient not in missing}

    first = ranking_of(halve(candidates_of(["a"], ["finetune"]), FOLDS, 1, measure), 2).iloc[0]
    assert (first["source"], first["gain"]) == ("a", pytest.approx(0.2))
    assert first["n_folds"] == FOLDS - 1
    assert first["gain_low"] == pytest.approx(0.2)


def test_it_stops_once_the_answer_is_given():
    calls = []
    two = candidates_of(["a"], ["finetune"])
    rows = halve(two, FOLDS, ROUNDS, measured({"a finetune": 0.3}, noise=0.01, calls=calls))
    assert {r for _, _, r in calls} == {0}
    assert answer_of(ranking_of(rows, len(two))) == TRANSFER
    rows = halve(two, FOLDS, ROUNDS, measured({"a finetune": 0.3}, noise=0.01), least=2)
    assert set(rows["round"]) == {0, 1}
    rows = halve(two, FOLDS, ROUNDS, measured({"a finetune": -0.3}, noise=0.01))
    assert answer_of(ranking_of(rows, len(two))) == NO_TRANSFER


def test_the_interval_over_folds_covers_although_folds_share_patients():
    """What a training learns is the mean of what its patients teach, and two folds share most of them."""
    rng, folds, held_out, level, runs = np.random.default_rng(0), 5, 2, 0.95, 2000
    wrong = 0
    for _ in range(runs):
        taught, shown = rng.normal(0, 0.1, (2, folds, held_out))
        trained = np.array([np.delete(taught, fold, 0).mean() for fold in range(folds)]) + rng.normal(0, 0.02, folds)
        interval = corrected_interval(trained + shown.mean(1), level)
        wrong += not interval.low <= 0 <= interval.high
    assert wrong / runs <= 1 - level + 2 * (level * (1 - level) / runs) ** 0.5


def test_without_a_gain_transfer_is_seldom_advised():
    runs, n = 60, len(MANY)
    wrong = sum(
        answer_of(ranking_of(halve(MANY, FOLDS, 2, measured({}, noise=0.03, seed=s)), n)) == TRANSFER
        for s in range(runs)
    )
    assert wrong / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5


def test_a_large_gain_is_found():
    runs = 30
    gains = {"a finetune": 0.3}
    right = 0
    for s in range(runs):
        ranking = ranking_of(halve(MANY, FOLDS, ROUNDS, measured(gains, noise=0.03, seed=s)), len(MANY))
        best = ranking[ranking["source"] != SCRATCH].iloc[0]
        right += (best["source"], best["plan"]) == ("a", "finetune") and answer_of(ranking) == TRANSFER
    assert right >= 0.8 * runs


def test_no_torch_is_imported():
    assert "torch" not in vars(halving)
