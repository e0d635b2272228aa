"""Sweeps that stop early: their rate of wrong verdicts where drops are at the tolerance, and what they measure."""

import numpy as np
import pytest
import torch
from conftest import COMPUTE
from torch import nn

from prrmse.data.slices import Slices
from prrmse.engine.sweep import sweep_changes
from prrmse.engine.until import Rule, decide, looks, sweep_until_decided
from prrmse.learning.dice import Counts, dice_table, mean_dice
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching

TOLERANCE, ERROR = 0.05, 0.05
RULES = {stopping: Rule(TOLERANCE, ERROR, stopping) for stopping in ("guaranteed", "normal")}


def verdicts(drops, rule, baseline=0.9):
    """What the looks decide of these patients, in their order, and how many are seen: as a sweep does it."""
    total = drops.shape[1]
    found, seen = np.full(len(drops), -1), np.full(len(drops), total)
    for patients in looks(total)[:-1]:
        now = np.where(found < 0, decide(drops[:, :patients], np.full(total, baseline), rule), -1)
        seen[now >= 0] = patients
        found = np.where(now >= 0, now, found)
    return np.where(found < 0, drops.mean(1) <= TOLERANCE, found), seen


@pytest.mark.parametrize("total", [10, 50, 200])
@pytest.mark.parametrize("beyond", [1e-6, -1e-6])
def test_where_the_mean_of_normal_drops_is_the_tolerance_few_verdicts_are_wrong(total, beyond):
    drops = np.random.default_rng(0).normal(0, 0.05, (4000, total))
    drops += TOLERANCE + beyond - drops.mean(1, keepdims=True)  # of exactly these patients
    wrong = {name: np.mean(verdicts(drops, rule)[0] != (beyond < 0)) for name, rule in RULES.items()}
    assert max(wrong.values()) < ERROR + 3 * np.sqrt(ERROR / 4000)
    assert wrong["normal"] > 0.001, "a rule that never decides is no test of its errors"


# Patients of all, how many of them fail, and how far; the others drop by as much as brings the mean to the tolerance.
RARE = [(10, 1, 0.6), (60, 4, 0.8), (60, 8, 0.9), (60, 20, 0.2), (200, 20, 0.55), (200, 5, 0.89), (500, 300, 0.1)]


@pytest.mark.parametrize(("total", "failing", "drop"), RARE)
@pytest.mark.parametrize("beyond", [1e-4, -1e-4])
def test_the_guarantee_holds_where_few_patients_fail_and_the_t_test_does_not(total, failing, drop, beyond):
    one = np.zeros(total)
    one[:failing] = drop
    one[failing:] = (total * (TOLERANCE + beyond) - failing * drop) / (total - failing)
    assert (one >= -0.1).all()
    assert (one <= 0.9).all(), "bounds of a drop from a Dice of 0.9"
    rng = np.random.default_rng(0)
    drops = np.array([rng.permutation(one) for _ in range(3000)])
    wrong = {name: np.mean(verdicts(drops, rule)[0] != (beyond < 0)) for name, rule in RULES.items()}
    assert wrong["guaranteed"] < ERROR + 3 * np.sqrt(ERROR / 3000)
    if (total, failing, beyond) == (60, 4, 1e-4):
        assert wrong["normal"] > 0.3, "docs/screen.md says so"


def test_the_guarantee_is_not_for_nothing():
    """Where it is hardest for it, drops of all or nothing, it comes near to its rate."""
    rng = np.random.default_rng(0)
    drops = 0.9 * np.array([rng.permutation(np.arange(180) < 10) for _ in range(3000)])  # a mean of 0.05
    found, _ = verdicts(drops + 1e-9, RULES["guaranteed"], baseline=0.9 + 1e-9)
    assert 0.01 < found.mean() < ERROR + 3 * np.sqrt(ERROR / 3000)


def test_clear_drops_are_decided_early():
    rng = np.random.default_rng(0)
    small, large = rng.normal(0.001, 0.002, (500, 200)), rng.normal(0.5, 0.05, (500, 200))
    for drops, truth in ((small, 1), (large, 0)):
        for name, rule in RULES.items():
            found, seen = verdicts(drops, rule)
            assert (found == truth).all(), name
            assert (
                seen.max()
                <= {("normal", 1): 6, ("normal", 0): 12, ("guaranteed", 1): 96, ("guaranteed", 0): 6}[name, truth]
            )


def test_at_the_bounds_of_dice_verdicts_are_those_of_all():
    """A target without an error, and one of nothing but errors."""
    exact = Rule(0.0, ERROR, "guaranteed")
    for drops, truth in ((np.zeros((1, 5)), 1), (np.full((1, 5), 0.01), 0)):
        assert decide(drops, np.ones(20), exact).tolist() in ([-1], [truth])
    assert decide(np.full((1, 3), 0.02), np.full(20, 0.03), RULES["guaranteed"]).tolist() == [1], (
        "no drop can be larger"
    )
    assert decide(np.zeros((1, 3)), np.zeros(20), RULES["guaranteed"]).tolist() == [1]


def test_looks_double_and_end_with_all():
    for total in (1, 3, 4, 10, 47, 48, 49, 1000):
        assert looks(total) == [*(3 * 2**i for i in range(20) if 3 * 2**i < total), total]


def test_patients_without_a_structure_do_not_count():
    drops = np.array([[0.0, np.nan, 0.0, 0.001], [0.0, np.nan, np.nan, 0.001], [0.9, 0.8, 0.9, np.nan]])
    assert decide(drops, np.full(50, 0.9), Rule(TOLERANCE, 0.3, "normal")).tolist() == [1, -1, 0]
    # Of five of whom one has none, four who drop by 0 are all there is to know.
    baseline = np.array([0.9, np.nan, 0.9, 0.9, np.nan])
    assert decide(drops[:1], baseline, RULES["guaranteed"]).tolist() == [1]
    assert decide(drops[:1], np.array([0.9, np.nan, 0.9, 0.9, 0.9]), RULES["guaranteed"]).tolist() == [-1]


@pytest.fixture
def patients(slices):
    """The same 12 slices as those of 12 patients."""
    index = slices.index.assign(patient=[f"p{i:02d}" for i in range(12)])
    return Slices(slices.image, slices.label, index, slices.meta)


@pytest.mark.parametrize("engine", ["fast", "exact", "plain"])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_what_is_measured_is_what_a_whole_sweep_measures(trained, patients, rule, engine):
    network = trained[0]
    evaluation = Evaluation(patients, COMPUTE, 4)
    source = {k: v + v.abs().mean() for k, v in network.state_dict().items() if v.is_floating_point()}
    layers = reaching(network, evaluation.whole.image[:1])[:: 1 if engine == "fast" else 7]
    final = f"{network.final_name}.weight"
    changes = [{layer.tensor: source[layer.tensor]} for layer in layers]
    changes += [{final: -network.state_dict()[final]}, {}]  # the worst, and none at all
    own, found, seen = sweep_until_decided(network, changes, evaluation, rule, engine=engine)
    base, whole = evaluation.rebased(network, *sweep_changes(network, changes, evaluation, engine=engine))
    assert all(map(np.array_equal, own, base))
    number = np.array([rows.sum() for rows in seen])
    assert set(number) <= {3, 6, 12}
    assert (number < 12).any()
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


def test_a_patient_who_has_a_structure_only_falsely_is_measured_all_the_same(trained, patients):
    label = patients.label.copy()
    label[3] = 0
    evaluation = Evaluation(Slices(patients.image, label, patients.index, patients.meta), COMPUTE, 4)
    changes = [{"inc.0.weight": torch.zeros_like(v)} for k, v in trained[0].state_dict().items() if k == "inc.0.weight"]
    _, _, seen = sweep_until_decided(trained[0], [*changes, {}], evaluation, Rule(TOLERANCE, 1e-14, "guaranteed"))
    assert all(rows.sum() in (3, 6, 12) for rows in seen)
    assert seen[-1].all(), "at this rate nothing is decided on some"


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
    own, (found,), _ = sweep_until_decided(network, changes, evaluation, RULES["normal"])
    base, (whole,) = evaluation.rebased(network, *sweep_changes(network, changes, evaluation))
    assert all(map(np.array_equal, (*own, *found), (*base, *whole)))
    assert "normalises by the statistics of a batch" in caplog.text
