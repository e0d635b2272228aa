"""Verdicts: rule, interval, fractions."""

import numpy as np
import pandas as pd
import pytest
from tables import VERDICT, swap_parts

from prrmse.settings import Verdict
from prrmse.tables.bootstrap import bootstrap_mean
from prrmse.tables.verdict import network_table, verdict_table


def table(rule="mean", tolerance=0.05, drop_of=lambda kind, *_: 0.3 if kind == "W" else 0.0):
    parts = swap_parts("unet", drop_of).drop(columns="class")
    return verdict_table(parts, VERDICT.model_copy(update={"rule": rule, "tolerance": tolerance}))


def test_planted_drops_are_found():
    verdict = table()
    assert (verdict["reusable"] == (verdict["kind"] != "W")).all()
    assert np.allclose(verdict[verdict["kind"] == "W"]["drop"], 0.3, atol=0.005)
    assert (verdict["drop_low"] <= verdict["drop"]).all()
    assert (verdict["drop_high"] >= verdict["drop"]).all()
    assert set(verdict["n_patients"]) == {8}
    assert set(verdict["n_seeds"]) == {3}


def test_upper_rule_is_stricter_than_mean_rule():
    mean, upper = (table(rule, 0.0, lambda *_: 0.0)["reusable"].mean() for rule in ("mean", "upper"))
    assert upper < mean


def test_fractions_count_pairs_scalars_and_kernels_without_the_final_layer():
    verdict = table()
    network = network_table(verdict, VERDICT).set_index("source")
    inner = verdict[(verdict["source"] == "t1-seg") & ~verdict["final"]]
    row = network.loc["t1-seg"]
    assert row["n_pairs"] == 108
    assert row["fraction_pairs"] == inner["reusable"].mean()
    assert row["fraction_scalars"] == inner[inner["reusable"]]["scalars"].sum() / inner["scalars"].sum()
    assert row["fraction_kernels"] == 0
    assert not network.loc["all", "is_rn"]
    assert network_table(table(drop_of=lambda *_: 0.0), VERDICT)["is_rn"].all()


def test_bootstrap_interval_has_the_known_width():
    values = np.random.default_rng(0).standard_normal(400)
    low, high = bootstrap_mean(values, Verdict(resamples=4000), "test")
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.06)


def test_drops_are_paired_means_over_seeds_then_patients():
    """A drop is the mean over patients of the mean over seeds; a patient that was not measured does not count."""
    rows = [("W", 1, seed, patient, 0.9 - drop, 0.9)
            for (seed, patient), drop in {(0, "a"): 0.1, (1, "a"): 0.3, (0, "b"): 0.5}.items()]  # fmt: skip
    parts = pd.DataFrame(rows, columns=["kind", "layer", "seed", "patient", "dice", "baseline"])
    parts = parts.assign(net="n", target="t", source="s", module="m", final=False, scalars=1)
    verdict = verdict_table(parts, VERDICT)
    assert verdict.loc[0, "drop"] == pytest.approx((0.2 + 0.5) / 2)
    assert verdict.loc[0, ["n_patients", "n_seeds"]].tolist() == [2, 2]
