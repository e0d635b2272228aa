"""What is known before a swap: planted scores have the AUROC that they were given, and no effect is no finding."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from prrmse.settings import Verdict
from prrmse.tables.inference import weighted_auroc
from prrmse.tables.screen import PREDICTORS, predicted, predictors_table

SETTINGS = Verdict(resamples=400)


def planted(seed=0, sources=3, layers=25, noise=0.0):
    """Pairs of a network in which ``first_order`` is the drop and ``noise``, and nothing else tells anything."""
    rng = np.random.default_rng(seed)
    rows = []
    for source in range(sources):
        for kind in ("W", "RM", "RV"):
            for layer in range(1, layers + 1):
                drop = float(rng.exponential(0.04))
                rows.append(("unet", "a-seg", f"s{source}", kind, layer, False, 9, drop, drop + noise * rng.normal()))
    columns = ["net", "target", "source", "kind", "layer", "final", "scalars", "drop", "first_order"]
    table = pd.DataFrame(rows, columns=columns)
    table["rmse"], table["rmse_relative"] = rng.random((2, len(table)))
    table["scalars"] = rng.integers(1, 100, len(table))
    return table.assign(reusable=table["drop"] <= 0.05)


def test_auroc_is_that_of_scikit_learn_and_weights_are_repetitions():
    rng = np.random.default_rng(0)
    score, harmful = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    weights = rng.integers(0, 4, (5, 40))
    found = weighted_auroc(score, harmful, weights)
    for row, value in zip(weights, found, strict=True):
        assert value == pytest.approx(roc_auc_score(np.repeat(harmful, row), np.repeat(score, row)))
    assert np.isnan(weighted_auroc(score, np.ones(40, bool), np.ones((1, 40)))).all()


def test_a_predictor_that_knows_the_drop_is_found_and_the_others_are_not():
    table = predictors_table(planted(noise=0.01), SETTINGS).set_index(["kinds", "predictor"])
    assert list(table.index.get_level_values("predictor").unique()) == list(PREDICTORS)
    for kinds in ("all", "W", "other"):
        assert table.loc[(kinds, "first_order"), "auroc_low"] > 0.9
        assert table.loc[(kinds, "first_order"), "rho"] > 0.8
        assert (table["auroc_low"] <= table["auroc"]).all()
        assert (table["auroc"] <= table["auroc_high"]).all()
    assert table.loc["all", "n_pairs"].unique().tolist() == [75]
    assert table.loc["W", "n_pairs"].unique().tolist() == [25]
    assert (table["n_sources"] == 3).all()


def test_intervals_of_what_tells_nothing_hold_a_guess():
    holds = []
    for seed in range(60):
        table = predictors_table(planted(seed), SETTINGS)
        rows = table[(table["kinds"] == "all") & table["predictor"].isin(["rmse", "rmse_relative", "scalars"])]
        holds += ((rows["auroc_low"] <= 0.5) & (rows["auroc_high"] >= 0.5)).tolist()
    assert np.mean(holds) > 0.95 - 3 * np.sqrt(0.05 * 0.95 / len(holds))


def test_a_source_that_is_all_reusable_has_no_auroc_and_the_final_convolution_does_not_count():
    table = planted(noise=0.01)
    table.loc[table["source"] == "s0", "reusable"] = True
    last = table.iloc[[0]].assign(layer=99, final=True, first_order=np.inf, reusable=True)
    with_last = predictors_table(pd.concat([table, last]), SETTINGS)
    assert with_last.equals(predictors_table(table, SETTINGS))
    assert (with_last["n_sources"] == 2).all()
    none = predictors_table(table.assign(reusable=True), SETTINGS)
    assert none[["auroc", "auroc_low", "auroc_high", "rho"]].isna().all(axis=None)
    assert (none["n_sources"] == 0).all()


def test_predictors_are_means_over_seeds_beside_the_verdict():
    keys = {"net": "unet", "target": "a-seg", "source": "b-seg", "kind": "W", "layer": 1, "module": "m", "final": False}
    keys |= {"scalars": 9}
    measured = {"rmse": 1.0, "rmse_relative": 0.5}
    screens = pd.DataFrame([{**keys, **measured, "seed": s, "first_order": v} for s, v in ((0, 1.0), (1, 3.0))])
    verdict = pd.DataFrame([{**keys, "drop": 0.1, "reusable": False}])
    assert predicted(screens, verdict)["first_order"].tolist() == [2.0]
