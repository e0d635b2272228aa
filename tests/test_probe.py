"""The linear probe against its definition: a long training of the same head in plain torch, and scikit-learn."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, initialise
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from prrmse.data.slices import save_slices
from prrmse.errors import InputError
from prrmse.experiments.probe import GRADIENT, L2, fit_head, head_inputs, probe
from prrmse.experiments.transfer import transfer_run
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.target import FewPatients
from prrmse.learning.train import train
from prrmse.learning.training_run import training_run
from prrmse.nets.checkpoint import load_checkpoint, save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.settings import ForeignNetwork, Training, UNet

HEADS = {"unet": "outc", "pspnet": "final"}


def trained(net, slices):
    """Features that are neither random nor perfect."""
    network = initialise(net, ARGUMENTS[net], "shared", "none", "a-seg", 0)
    settings = Training(steps=15, batch_size=4, learning_rate=0.003)
    return train(network, slices.split("train"), "auto", settings, 0, COMPUTE)


def pixels(network, head, training):
    """Features ``[pixels, C]`` and labels, by a hook of our own."""
    seen = []
    hook = network.get_submodule(head).register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(training.whole.image)
    hook.remove()
    return seen[0].movedim(1, -1).flatten(0, -2).double(), training.whole.label.flatten()


def objective(weight, bias, x, y):
    return F.cross_entropy(x @ weight.T + bias, y) + L2 / 2 * weight.square().sum()


@pytest.mark.parametrize("net", ["unet", "pspnet"])
def test_the_probe_has_converged_to_the_only_solution(net, slices):
    network, training = trained(net, slices), Evaluation(slices.split("train"), COMPUTE, 4)
    training.place(network)
    before, head = copy.deepcopy(network.state_dict()), HEADS[net]
    fit = fit_head(network, head, training)
    own = network.get_submodule(head)
    x, y = pixels(network, head, training)
    weight = own.weight.detach().double().flatten(1).requires_grad_()
    bias = own.bias.detach().double().requires_grad_()
    loss = objective(weight, bias, x, y)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, [weight, bias])])
    assert fit.gradient <= GRADIENT
    assert float(gradient.abs().max()) < 2 * GRADIENT, "rounded to float32 it is still flat there"
    assert fit.loss == pytest.approx(loss.item(), abs=1e-6)
    # A long training in plain torch from another start.
    torch.manual_seed(5)
    a, b = (0.1 * torch.randn(4, n, dtype=torch.float64) for n in (x.shape[1], 1))
    a, b = a.requires_grad_(), b.flatten().requires_grad_()
    adam = torch.optim.Adam([a, b], 0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 1200)
    for _ in range(1200):
        adam.zero_grad()
        objective(a, b, x, y).backward()
        adam.step()
        schedule.step()
    with torch.no_grad():
        assert fit.loss <= float(objective(a, b, x, y)) + 1e-7, "a training found a better head"
        assert float(objective(a, b, x, y)) == pytest.approx(fit.loss, abs=5e-3)
        agree = ((x @ a.T + b).argmax(1) == (x @ weight.T + bias).argmax(1)).double().mean()
    assert agree > 0.98
    for name, value in network.state_dict().items():
        assert name.startswith(f"{head}.") or torch.equal(value, before[name]), name


def test_the_probe_is_the_logistic_regression_of_scikit_learn(slices):
    network, training = trained("unet", slices), Evaluation(slices.split("train"), COMPUTE, 4)
    training.place(network)
    fit_head(network, "outc", training, l2=1e-3)
    x, y = pixels(network, "outc", training)
    # Its penalty is |w|^2 / 2 beside C times the sum of the losses.
    other = LogisticRegression(C=1 / (1e-3 * len(y)), tol=1e-10, max_iter=5000).fit(x.numpy(), y.numpy())
    own = network.get_submodule("outc")
    expected = torch.from_numpy(other.predict_proba(x.numpy()))
    found = torch.softmax(x @ own.weight.double().flatten(1).T + own.bias.double(), 1)
    assert float((found - expected).abs().max()) < 2e-3


def test_a_run_is_seedless_but_for_its_patients_and_untrained_features_get_statistics(slices, tmp_path):
    network = trained("unet", slices)
    header = {"net": "unet", "arguments": ARGUMENTS["unet"], "layers": [x._asdict() for x in inventory(network)]}
    save_checkpoint(network, tmp_path / "a.safetensors", header)
    save_slices(slices, tmp_path / "data.npz")
    spec = UNet.model_validate({"arguments": ARGUMENTS["unet"]})

    def run(seed, checkpoint):
        return probe(
            FewPatients("unet", "a-seg", 2, "b", seed, tmp_path / "data.npz", checkpoint, spec, "shared", COMPUTE)
        )

    tables = [run(seed, tmp_path / "a.safetensors") for seed in (0, 1)]
    pd.testing.assert_frame_equal(*tables)  # both draw all patients there are
    assert set(tables[0]["n_train"]) == {2}
    untrained = run(0, None)
    assert untrained["pairs_reused"].iloc[0] < tables[0]["pairs_reused"].iloc[0]
    assert np.isfinite(untrained["dice"]).all()


class Auxiliary(nn.Module):
    """A head that is used in training only, registered after the classifier."""

    def __init__(self):
        super().__init__()
        self.body, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.classifier, self.auxiliary = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.norm(self.body(x)).relu()
        return {"out": self.classifier(x), "aux": self.auxiliary(x)}


def test_an_auxiliary_head_is_not_taken_for_the_final_convolution(slices, tmp_path):
    """Neither by a probe, nor by a transfer, nor by what a checkpoint says of itself."""
    save_slices(slices, tmp_path / "data.npz")
    spec = ForeignNetwork(factory="test_probe:Auxiliary", in_channels=1, out_channels=4, trust=True)
    few = FewPatients("own", "a-seg", 2, "b-seg", 0, tmp_path / "data.npz", None, spec, "independent", COMPUTE)
    network, drawn, validation = few.load()
    once = Training(steps=1, batch_size=4, learning_rate=0.003)
    training_run(network, drawn, validation, "seg", once, 0, COMPUTE, checkpoint=tmp_path / "b.safetensors",
                 header={"net": "own", "model": "b-seg", "factory": spec.factory, "arguments": {}})  # fmt: skip
    assert {
        layer["module"] for layer in load_checkpoint(tmp_path / "b.safetensors")[1]["layers"] if layer["final"]
    } == {"classifier"}
    of = replace(few, checkpoint=tmp_path / "b.safetensors")
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FewPatients, "reuse", lambda _, __, layers: taken.append(layers) or layers)
        transfer_run(of, "finetune", plan="all", settings=once, resume=tmp_path / "resume")
        probe(of)
    for layers in taken:
        assert {layer.module for layer in layers} == {"body", "norm"}


def test_a_network_without_a_final_convolution_is_refused(slices):
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Upsample(scale_factor=1), nn.Softmax(1)).eval()
    with pytest.raises(InputError, match="something follows"):
        head_inputs(network, network[0], Evaluation(slices.split("train"), COMPUTE, 4))
