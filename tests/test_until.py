"""Sweeps that stop early: their rate of wrong verdicts where drops are at the tolerance, and what they measure."""

import numpy as np
import pytest
import torch
from conftest import COMPUTE
from torch import nn

from prrmse.data.slices import Slices
from prrmse.engine.sweep import sweep_changes
from prrmse.engine.until import decide, looks, sweep_until_decided
from prrmse.learning.dice import Counts, dice_table, mean_dice
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching

TOLERANCE, ERROR = 0.05, 0.05


def verdicts(drops, error=ERROR):
    """What the looks decide of these patients, in their order, and how many are seen: as a sweep does it."""
    total = drops.shape[1]
    found, seen = np.full(len(drops), -1), np.full(len(drops), total)
    for patients, level in looks(total, error):
        if patients < total:
            now = np.where(found < 0, decide(drops[:, :patients], total, TOLERANCE, level), -1)
            seen[now >= 0] = patients
            found = np.where(now >= 0, now, found)
    return np.where(found < 0, drops.mean(1) <= TOLERANCE, found), seen


@pytest.mark.parametrize("total", [10, 50, 200])
@pytest.mark.parametrize("beyond", [1e-6, -1e-6])
def test_where_the_mean_is_the_tolerance_few_verdicts_are_wrong(total, beyond):
    drops = np.random.default_rng(0).normal(0, 0.05, (4000, total))
    drops += TOLERANCE + beyond - drops.mean(1, keepdims=True)  # of exactly these patients
    found, _ = verdicts(drops)
    wrong = np.mean(found != (beyond < 0))
    assert wrong < ERROR + 3 * np.sqrt(ERROR / 4000)
    assert wrong > 0.001, "a rule that never decides is no test of its errors"


def test_clear_drops_are_decided_at_the_first_looks():
    rng = np.random.default_rng(0)
    small, large = rng.normal(0.001, 0.002, (500, 50)), rng.normal(0.5, 0.05, (500, 50))
    for drops, truth in ((small, 1), (large, 0)):
        found, seen = verdicts(drops)
        assert (found == truth).all()
        assert set(seen) <= {3, 6}
        assert (seen == 3).any()


def test_levels_add_up_to_less_than_the_error():
    for total in (1, 3, 4, 10, 47, 48, 49, 1000):
        at = list(looks(total, ERROR))
        assert [seen for seen, _ in at] == [*(3 * 2**i for i in range(20) if 3 * 2**i < total), total]
        assert at[-1][1] == 0 <= min(level for _, level in at)
        assert sum(level for _, level in at) < ERROR


def test_patients_without_a_structure_do_not_count():
    drops = np.array([[0.0, np.nan, 0.0, 0.001], [0.0, np.nan, np.nan, 0.001], [0.9, 0.8, 0.9, np.nan]])
    assert decide(drops, 50, TOLERANCE, 0.01).tolist() == [1, -1, 0]


@pytest.fixture
def patients(slices):
    """The same 12 slices as those of 12 patients."""
    index = slices.index.assign(patient=[f"p{i:02d}" for i in range(12)])
    return Slices(slices.image, slices.label, index, slices.meta)


def test_what_is_measured_is_what_a_whole_sweep_measures(trained, patients):
    network = trained[0]
    evaluation = Evaluation(patients, COMPUTE, 4)
    source = {k: v + v.abs().mean() for k, v in network.state_dict().items() if v.is_floating_point()}
    layers = reaching(network, evaluation.whole.image[:1])
    changes = [{layer.tensor: source[layer.tensor]} for layer in layers] + [{}]
    own, found = sweep_until_decided(network, changes, evaluation, tolerance=TOLERANCE, error=ERROR)
    base, whole = evaluation.rebased(network, *sweep_changes(network, changes, evaluation))
    assert all(map(np.array_equal, own, base))
    seen = [(counts.true.sum(1) > 0) for counts in found]
    number = np.array([rows.sum() for rows in seen])
    assert set(number) <= {3, 6, 12}
    assert (number < 12).any()
    assert number[-1] == 3, "nothing was changed"
    for rows, partial, counts in zip(seen, found, whole, strict=True):
        measured = Counts(*(a[rows] for a in partial)), Counts(*(a[rows] for a in counts))
        apart = np.nanmax(np.abs(np.subtract(*(mean_dice(c, evaluation.classes) for c in measured))))
        assert apart < 2e-3, "rounding at another batch size moves a pixel, no more"
        assert all((a[~rows] == 0).all() for a in partial)
    names = [p for p, is_seen in zip(evaluation.patients, seen[-1], strict=True) if is_seen]
    assert list(dict.fromkeys(dice_table(found[-1], evaluation.patients, evaluation.classes)["patient"])) == names
    baseline = mean_dice(own, evaluation.classes)
    drops = np.array(
        [[np.nanmean(baseline - mean_dice(c, evaluation.classes)) for c in each] for each in (found, whole)]
    )
    clear = np.abs(drops[1] - TOLERANCE) > 0.02
    assert ((drops[0] <= TOLERANCE) == (drops[1] <= TOLERANCE))[clear].mean() > 0.95


def test_patients_of_an_evaluation_are_those_of_their_slices(trained, slices):
    evaluation = Evaluation(slices, COMPUTE, 4)
    part = evaluation.of_patients([1, 3])
    rows = slices.index["patient"].isin([evaluation.patients[1], evaluation.patients[3]]).to_numpy()
    other = Evaluation(slices.take(np.flatnonzero(rows)), COMPUTE, 4)
    assert part.patients == other.patients
    assert all(map(torch.equal, part.whole, other.whole))
    assert all(map(np.array_equal, part.own_counts(trained[0]), other.own_counts(trained[0])))
    assert all(
        np.array_equal(a[[1, 3]], b)
        for a, b in zip(evaluation.own_counts(trained[0]), part.own_counts(trained[0]), strict=True)
    )


def test_a_network_that_normalises_by_batches_is_measured_on_all_patients(patients, caplog):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    evaluation = Evaluation(patients, COMPUTE, 4)
    changes = [{"0.bias": torch.ones(4)}]
    own, (found,) = sweep_until_decided(network, changes, evaluation, tolerance=TOLERANCE, error=ERROR)
    base, (whole,) = evaluation.rebased(network, *sweep_changes(network, changes, evaluation))
    assert all(map(np.array_equal, (*own, *found), (*base, *whole)))
    assert "normalises by the statistics of a batch" in caplog.text
