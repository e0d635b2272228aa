"""Controls say what they must: the planted truth of every one of them, on a trained network."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise

from prrmse.experiments.control import control_state
from prrmse.experiments.swap import sweep_table
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.train import train
from prrmse.names import CONTROLS
from prrmse.settings import Verdict
from prrmse.tables.controls import control_summary, relative_table, source_summary

IMAGE = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
VERDICT = Verdict(resamples=200)


def trained(net, seed, slices):
    network = initialise(net, ARGUMENTS[net], "shared", "none", "a-seg", seed)
    settings = SETTINGS.model_copy(update={"steps": 80, "learning_rate": 0.01, "augment": False})
    return train(network, slices.split("train"), "seg", settings, seed, COMPUTE)


@pytest.fixture(scope="module", params=["unet", "pspnet"])
def swept(request):
    """Sweeps of every control of a trained network, of its other seed, and of a source trained on another modality."""
    slices = request.getfixturevalue("slices")
    target, second = (trained(request.param, seed, slices) for seed in (0, 1))
    initial = initialise(request.param, ARGUMENTS[request.param], "shared", "none", "a-seg", 0).state_dict()
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    others = {"seed": second.state_dict(), "initialisation": dict(initial), "noise-b": second.state_dict()}
    tables, states = [], {}
    for name in [*CONTROLS, "noise-b"]:
        states[name] = control_state(name, target, IMAGE, 1, others.get(name))
        table = sweep_table(target, states[name], evaluation, engine="fast", memory_mb=500)
        tables.append(table.assign(net=request.param, target="a-seg", source=name, seed=0))
    inverted = dataclasses.replace(slices, image=-slices.image)
    states["modality"] = trained(request.param, 0, inverted).state_dict()
    table = sweep_table(target, states["modality"], evaluation, engine="fast", memory_mb=500)
    tables.append(table.assign(net=request.param, target="a-seg", source="modality", seed=0))
    return target, states, pd.concat(tables).query("`class` == 'mean'").drop(columns="class")


def test_permuted_and_rescaled_copies_compute_the_same(swept):
    target, states, _ = swept
    with torch.no_grad():
        expected = target(IMAGE)
        own = {k: v.clone() for k, v in target.state_dict().items()}
        for name in ("self", "aligned", "permuted", "rescaled"):
            target.load_state_dict(states[name])
            torch.testing.assert_close(target(IMAGE), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        for name in ("random", "shuffled", "noise-b"):
            target.load_state_dict(states[name])
            assert not torch.allclose(target(IMAGE), expected, rtol=0.1), name
        target.load_state_dict(own)


def test_every_control_says_what_it_must(swept):
    _, states, table = swept
    found = control_summary(table, VERDICT).set_index("control")
    for harmless in ("self", "aligned"):
        assert found.loc[harmless, "largest_drop_kernels"] == 0, harmless
        assert found.loc[harmless, "fraction_reusable"] == 1, harmless
    for harmful in ("permuted", "rescaled", "random", "shuffled"):
        assert found.loc[harmful, "drop_kernels"] > 0.05, harmful
    for key, value in states["self"].items():
        if value.ndim == 4:
            assert sorted(value.flatten().tolist()) == sorted(states["shuffled"][key].flatten().tolist())
            norms = [(states[name][key] - value).norm() for name in ("noise-b", "seed")]
            torch.testing.assert_close(*norms, rtol=1e-4, atol=1e-6)


def test_a_source_of_another_modality_is_harmful(swept):
    """Trained from the same initialisation on the negative. (On squares, another seed does about as much harm.)"""
    _, _, table = swept
    found = control_summary(table, VERDICT).set_index("control")
    assert found.loc["modality", "drop_kernels"] > 0.05
    assert found.loc["modality", "fraction_reusable"] < 1
    relative = relative_table(table[table["source"] == "modality"], table, VERDICT)
    kernels = relative[(relative["kind"] == "W") & ~relative["final"]]
    assert kernels["reuse"].median() < 0.9
    assert not kernels["equivalent"].astype(bool).all()


def test_relative_is_relative_to_the_controls(swept):
    _, _, table = swept
    real = table[table["source"].isin(["seed", "random"])].replace({"seed": "b", "random": "c"})
    relative = relative_table(real, table, VERDICT)
    twin, useless = (relative[relative["source"] == name] for name in ("b", "c"))
    assert np.allclose(twin["excess"], 0)
    assert twin["equivalent"].astype(bool).all()
    known = useless["reuse"].dropna()
    assert len(known) > 5
    assert np.allclose(known, 0)
    summary = control_summary(table, VERDICT)
    lines = source_summary(relative).set_index("source")
    assert set(summary["control"]) == {*CONTROLS, "noise-b", "modality"}
    assert lines.loc["b", "pairs no worse than another seed"] == 1
    assert lines.loc["c", "reuse of W (median)"] == pytest.approx(0)
    alone = relative_table(real, table[table["source"] != "seed"], VERDICT)
    assert alone["equivalent"].isna().all()
    assert alone["drop_seed"].isna().all()


def test_each_target_counts_its_own_patients(swept):
    _, _, table = swept
    other = table.assign(target="b-seg", patient="b" + table["patient"])
    both = pd.concat([table, other])
    relative = relative_table(both[both["source"] == "seed"].replace({"seed": "b"}), both, VERDICT)
    assert set(relative["n_patients"]) == {table["patient"].nunique()}
    halves = [rows.drop(columns="target").reset_index(drop=True) for _, rows in relative.groupby("target")]
    assert np.allclose(halves[0]["excess"], halves[1]["excess"])
