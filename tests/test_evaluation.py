"""One network has one Dice: the same in every table, whichever way it is computed."""

import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SELDOM, SETTINGS

from prrmse import api
from prrmse.data.slices import save_slices
from prrmse.experiments.base import train_base
from prrmse.experiments.joint import joint_experiment
from prrmse.experiments.swap import swap_experiment
from prrmse.learning.dice import dice
from prrmse.learning.evaluate import Evaluation, measure
from prrmse.nets.checkpoint import load_network
from prrmse.settings import PSPNet, UNet


@pytest.fixture(scope="module", params=["unet", "pspnet"])
def run(request, slices, tmp_path_factory):
    """A target and a source, trained by the workflow's own jobs in the default precision of training."""
    folder = tmp_path_factory.mktemp("run")
    data = folder / "squares.npz"
    save_slices(slices, data)
    spec = {"unet": UNet, "pspnet": PSPNet}[request.param].model_validate({"arguments": ARGUMENTS[request.param]})
    compute = SELDOM.model_copy(update={"precision": "auto"})
    settings = SETTINGS.model_copy(update={"steps": 40, "learning_rate": 0.01})
    tables = []
    for seed in (0, 1):
        out = folder / f"{seed}.safetensors"
        tables.append(train_base(request.param, "squares-seg", seed, data, spec, "shared", settings, compute, out))
    return folder / "0.safetensors", folder / "1.safetensors", data, spec, compute, tables[0]


# In bfloat16 the fast sweep's own rounding moves Dice, so that the test could fail.
@pytest.mark.parametrize(("engine", "precision"), [("fast", "float32"), ("fast", "bfloat16"), ("exact", "float32")])
def test_the_baseline_of_every_sweep_is_the_dice_of_the_base_model(engine, precision, run, slices):
    target, source, data, spec, compute, base = run
    if precision != compute.evaluation_precision:
        compute = compute.model_copy(update={"evaluation_precision": precision})
        base = measure(load_network(target)[0], Evaluation(slices.split("val"), compute, 4), "seg")
    base = base.set_index(["patient", "class"])["dice"]
    assert base.loc[base.index.get_level_values("class") == "mean"].between(0.1, 0.99).all(), "a Dice that can move"
    for experiment in (swap_experiment, joint_experiment) if precision == "bfloat16" else (swap_experiment,):
        table = experiment(target, source, data, spec, compute, engine=engine, memory_mb=2000)
        for _, rows in table.groupby([c for c in ("variant", "kind", "layer") if c in table]):
            pd.testing.assert_series_equal(
                rows.set_index(["patient", "class"])["baseline"], base, check_names=False, check_exact=True
            )
    own = swap_experiment(target, target, data, spec, compute, engine=engine, memory_mb=2000)
    assert (own["dice"] == own["baseline"]).all(), "a self-swap changes nothing"


def test_the_library_says_the_same(run, slices):
    target, source, _, _, compute, base = run
    network, _ = load_network(target)
    table = api.sweep(network, source, Evaluation(slices.split("val"), compute, 4))
    expected = base[base["class"] == "mean"].set_index("patient")["dice"]
    for _, rows in table.groupby(["kind", "layer"]):
        assert rows.set_index("case")["baseline"].to_dict() == expected.to_dict()


def test_the_memory_format_of_a_network_does_not_change_its_dice(run, slices):
    network, _ = load_network(run[0])
    other = load_network(run[0])[0].to(memory_format=torch.channels_last)
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    tables = [measure(net, evaluation, "seg") for net in (network, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_evaluation_is_in_the_precision_asked_for_and_not_in_that_of_training(run, slices):
    network, _ = load_network(run[0])
    image = torch.from_numpy(slices.split("val").image).unsqueeze(1)
    evaluation = Evaluation(slices.split("val"), COMPUTE.model_copy(update={"precision": "bfloat16"}), 4)
    assert evaluation.dtype is torch.float32
    with torch.no_grad():
        predicted = torch.cat([network(part).argmax(1) for part in image.split(COMPUTE.evaluation_batch_size)])
    label = torch.from_numpy(slices.split("val").label)
    counts = evaluation.own_counts(network)
    for i, patient in enumerate(evaluation.patients):
        rows = torch.tensor(list(slices.split("val").index["patient"] == patient))
        for c in range(4):
            a, b = predicted[rows] == c, label[rows] == c
            assert dice(counts)[i, c] == pytest.approx(float(2 * (a & b).sum() / (a.sum() + b.sum())), nan_ok=True)
