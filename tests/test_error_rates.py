"""Every rule is wrong in at most 5 % of runs without an effect, and finds a large effect in either direction."""

import importlib.util
import sys
from pathlib import Path

import pytest
from scipy import stats

from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED

SPEC = importlib.util.spec_from_file_location("error_rates", Path(__file__).parents[1] / "bench" / "error_rates.py")
bench = importlib.util.module_from_spec(SPEC)
sys.modules["error_rates"] = bench
SPEC.loader.exec_module(bench)

REPLICATES = 400
# Dearer rules by fewer: together they take the time of the others. `python bench/error_rates.py` has all at 1000.
DEAR = {
    "permuted copy",
    "other seed",
    "short connection",
    "shared initialisation",
    "alone and together",
    "stale statistics",
    "some score",
}
DEAR |= {"RMSE of a layer", "RMSE of a layer, at its margin"}


@pytest.mark.parametrize("rule", bench.RULES, ids=lambda rule: rule.name)
def test_wrong_answers_are_rare_without_an_effect(rule):
    replicates = REPLICATES // 4 if rule.name in DEAR else REPLICATES
    # A rate of 5 % is exceeded by more than this in one run of a thousand.
    most = stats.binom.ppf(0.999, replicates, 0.05) / replicates
    found = bench.rates(rule, rule.sizes[-1], 0, replicates)
    assert sum(found[answer] for answer in rule.wrong) <= most, found


@pytest.mark.parametrize("rule", [rule for rule in bench.RULES if rule.reached], ids=lambda rule: rule.name)
def test_a_large_effect_is_found_in_either_direction(rule):
    for answer, effect in ((HOLDS, 1), (FAILS, -1)):
        found = bench.rates(rule, rule.sizes[-1], effect, 10)
        if answer in rule.reached:
            assert found[answer] >= 0.7, (answer, found)
        other = FAILS if answer == HOLDS else HOLDS
        assert found[other] == 0, (effect, found)


@pytest.mark.parametrize("name", ["claim 7", "claim 8", "other seed", "closest source", "some score"])
def test_what_is_too_small_to_tell_is_undecided(name):
    """Two seeds and no effect; three sources or models, or one pair of trainings, whatever the effect."""
    rule = next(rule for rule in bench.RULES if rule.name == name)
    for effect in (0,) if name == "claim 7" else (0, 1, -1):
        assert bench.rates(rule, rule.sizes[0], effect, 40)[UNDECIDED] >= (0.9 if name == "claim 7" else 1)


def test_the_interval_of_seeds_and_patients_covers_as_often_as_asked():
    """Crossed terms of any proportion, and a ratio: at least the level, up to the error of the simulation."""
    from prrmse.tables.inference import crossed_interval, mean_of

    rng = bench.np.random.default_rng(0)
    for seeds in (2, 3, 5):
        for seed_sd, patient_sd, rest in ((1, 0, 0), (0.3, 1, 0.3), (1, 1, 1), (0, 0, 1)):
            missed = 0
            for _ in range(REPLICATES // 2):
                values = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, patient_sd, (1, 10))
                values = values + rng.normal(0, rest + 1e-9, (seeds, 10))
                found = crossed_interval(mean_of, values, 0.95)
                missed += not found.low <= 0 <= found.high
            assert missed <= stats.binom.ppf(0.999, REPLICATES // 2, 0.05), (seeds, seed_sd, patient_sd, rest)
