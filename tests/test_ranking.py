"""Gains and rankings on planted tables."""

import itertools

import numpy as np
import pandas as pd
import pytest

from prrmse.settings import Verdict
from prrmse.tables.factorial import INITS, effects_table, factorial_table, kernel_drops
from prrmse.tables.ranking import SCORES, gain_table, gain_values, layer_correlations, ranking_table, weighted_tau

SETTINGS = Verdict(resamples=200)
GAINS = {("a", 0): 0.3, ("a", 1): 0.28, ("b", 0): 0.2, ("b", 1): 0.18, ("c", 0): 0.05, ("c", 1): 0.02, ("d", 0): -0.1}
GAINS |= {("d", 1): -0.12, ("e", 0): -0.2, ("e", 1): -0.25}


def runs(noise=0.02):
    rng = np.random.default_rng(0)
    rows = []
    for (source, source_seed), gain in {("none", 0): 0.0, **GAINS}.items():
        for arm in ("finetune", "probe"):
            for seed in (0, 1, 2):
                for p in range(6):
                    dice = 0.5 + 0.03 * p + 0.02 * seed + gain - 0.1 * (arm == "probe") + noise * rng.normal()
                    rows.append(("pspnet", arm, source, source_seed, seed, f"p{p}", dice))
    return pd.DataFrame(rows, columns=["net", "arm", "source", "source_seed", "seed", "patient", "dice"])


def scores(of):
    rows = [("pspnet", *key, score, value) for score, values in of.items() for key, value in values.items()]
    return pd.DataFrame(rows, columns=["net", "source", "source_seed", "score", "value"])


def test_gain_is_paired_with_training_from_the_initialisation():
    rows, gains = gain_values(runs(noise=0.0))
    table = gain_table(rows, gains, 0.95).set_index(["arm", "source", "source_seed"])
    for (source, source_seed), gain in GAINS.items():
        own = table.loc[("finetune", source, source_seed)]
        assert own["gain"] == pytest.approx(gain)
        assert own["gain_low"] == pytest.approx(gain), "runs and patients are paired, so nothing varies"
        assert (own["n_runs"], own["n_patients"]) == (3, 6)
    assert table.loc[("probe", "none", 0), "gain"] == pytest.approx(-0.1), "untrained kernels"
    assert ("finetune", "none", 0) not in table.index


def test_gain_interval_covers_the_truth_and_widens_with_noise():
    widths = []
    for noise in (0.01, 0.05):
        rows, gains = gain_values(runs(noise))
        table = gain_table(rows, gains, 0.95)
        widths.append((table["gain_high"] - table["gain_low"]).mean())
        assert (table["gain_low"] < table["gain"]).all()
        assert (table["gain"] < table["gain_high"]).all()
    assert widths[1] > 3 * widths[0]


def test_a_missing_patient_does_not_count():
    parts = runs(noise=0.0)
    rows, gains = gain_values(parts[~((parts["source"] == "a") & (parts["patient"] == "p3"))])
    table = gain_table(rows, gains, 0.95).set_index(["arm", "source", "source_seed"])
    assert table.loc[("finetune", "a", 0), "gain"] == pytest.approx(0.3)


def test_a_perfect_score_ranks_perfectly_and_its_opposite_the_other_way():
    rows, gains = gain_values(runs())
    opposite = {key: -gain for key, gain in GAINS.items()}
    part = {key: gain for key, gain in GAINS.items() if key[0] in "ab"}
    table = ranking_table(
        scores({"logme": GAINS, "rmse": GAINS, "swap": opposite, "leep": part}), rows, gains, SETTINGS
    )
    found = table[table["arm"] == "finetune"].set_index("score")
    assert found.loc["logme", "tau"] == pytest.approx(1, abs=0.05)
    assert found.loc["swap", "tau"] == pytest.approx(1, abs=0.05), "smaller is better"
    assert found.loc["rmse", "tau"] < -0.9
    assert found.loc["logme", "regret"] == pytest.approx(0, abs=0.01)
    assert found.loc["rmse", "regret"] == pytest.approx(0.55, abs=0.05)
    assert found.loc["logme", "tau_low"] > 0.5
    assert found.loc["leep", ["n_sources", "n_models"]].tolist() == [4, 2]
    assert np.isnan(found.loc["leep", "tau_low"]), "two models give no interval"
    assert found.loc["leep", "p_above"] >= 0.5, "two models have two orders"
    assert np.isnan(found.loc["gbc", ["tau", "p_above", "p_any"]].astype(float)).all()
    assert found.loc["logme", "p_above"] == pytest.approx(1 / 120), "of all orders of five models"
    assert found.loc["rmse", "p_below"] == pytest.approx(1 / 120)
    assert found.loc["logme", "p_any"] >= found.loc["logme", "p_above"]
    assert set(table["score"]) == set(SCORES)


def test_a_score_that_knows_nothing_has_an_interval_around_zero():
    rows, gains = gain_values(runs())
    rng = np.random.default_rng(4)
    noise = dict(zip(GAINS, rng.permutation(len(GAINS)), strict=True))
    found = ranking_table(scores({"cka": noise}), rows, gains, SETTINGS).set_index(["arm", "score"])
    low, high = found.loc[("finetune", "cka"), ["tau_low", "tau_high"]]
    assert low < 0 < high


def test_weighted_tau_of_ties_and_of_few_is_nan():
    assert np.isnan(weighted_tau(np.ones(5), np.arange(5.0)))
    assert np.isnan(weighted_tau(np.arange(2.0), np.arange(2.0)))


def test_layer_correlation_has_the_sign_of_harm():
    rng = np.random.default_rng(0)
    rows = []
    for source in "abc":
        for layer in range(1, 21):
            drop = rng.random()
            rows.append((source, layer, drop, drop**2, 1 - drop, rng.random()))
    layers = pd.DataFrame(rows, columns=["source", "layer", "drop", "rmse", "cka", "rmse_relative"])
    layers = layers.assign(net="unet", source_seed=0, module="m", final=False)
    random_drops = pd.DataFrame({"net": "unet", "layer": range(1, 21), "drop_random": 1.0})
    found = layer_correlations(layers, random_drops, SETTINGS).set_index("measure")
    assert found.loc["rmse", "rho"] == pytest.approx(1)
    assert found.loc["cka", "rho"] == pytest.approx(1)
    assert abs(found.loc["rmse_relative", "rho"]) < 0.5
    assert np.isnan(found.loc["drop_random", "rho"]), "equal in all layers"
    assert (found["n_sources"] == 3).all()
    assert (found["n_kernels"] == 20).all()


def cells(effect_of_initialisation, effect_of_network):
    rng = np.random.default_rng(1)
    rows = []
    for net in ("unet", "pspnet"):
        for init in INITS:
            for source, random in (("x", False), ("y", False), ("random", True)):
                for seed, p in itertools.product(range(3), range(8)):
                    drop = 0.5 - (0 if random else effect_of_initialisation * (init == "shared"))
                    drop -= effect_of_network * (net == "pspnet")
                    dice = 0.9 - drop + 0.01 * rng.normal()
                    rows.append((net, init, source, seed, "W", False, f"p{p}", dice, 0.9))
    table = pd.DataFrame(
        rows, columns=["net", "init", "source", "seed", "kind", "final", "patient", "dice", "baseline"]
    )
    drops = kernel_drops(table)
    return drops[drops["source"] != "random"], drops[drops["source"] == "random"]


@pytest.mark.parametrize(("initialisation", "network"), [(0.3, 0.0), (0.0, 0.2)])
def test_factorial_separates_initialisation_from_network(initialisation, network):
    found = effects_table(*cells(initialisation, network), SETTINGS).set_index(["effect", "measure"])
    turned = [table.iloc[::-1] for table in cells(initialisation, network)]
    pd.testing.assert_frame_equal(effects_table(*turned, SETTINGS), found.reset_index(), rtol=1e-9)
    own = found.xs("drop", level="measure")
    assert own.loc["initialisation: shared - independent", "value"] == pytest.approx(-initialisation, abs=0.02)
    assert own.loc["network: pspnet - unet", "value"] == pytest.approx(-network, abs=0.02)
    published = own.loc["as published: pspnet shared - unet independent", "value"]
    assert published == pytest.approx(-initialisation - network, abs=0.02), "the published contrast cannot tell the two"
    reuse = found.xs("reuse", level="measure").loc["network: pspnet - unet"]
    if network:  # a network that tolerates anything, random kernels too, is not more reusable
        assert abs(reuse["value"]) < 0.05
    cell = factorial_table(*cells(initialisation, network), SETTINGS).set_index(["net", "init", "source"])
    assert cell.loc[("unet", "shared", "all"), "reuse"] == pytest.approx(initialisation / 0.5, abs=0.05)
    assert set(cell.index.get_level_values("source")) == {"x", "y", "all"}
    assert (cell["reuse_low"] <= cell["reuse"]).all()
