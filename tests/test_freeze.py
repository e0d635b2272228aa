"""Freezing: what is evaluated is what was trained, what is frozen keeps its value, and everything else trains."""

import copy
import dataclasses
import logging

import monai
import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise
from timm.layers import BatchNormAct2d
from torch import nn

from prrmse.learning import train as module
from prrmse.learning.freeze import Freezing, OneStatisticKept, reestimate
from prrmse.learning.train import batch_order, train
from prrmse.names import Layer
from prrmse.nets.layers import inventory

MODES = ("both", "literal", "reestimated")
STATISTICS = {"RM": "running_mean", "RV": "running_var"}


def made(name):
    """A network whose running statistics are far from those of any batch, as a source's can be."""
    torch.manual_seed(0)
    if name == "monai":
        network = monai.networks.nets.UNet(2, 1, 4, (4, 8, 8), (2, 2), norm="batch", act="relu")
    elif name == "timm":
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), BatchNormAct2d(8), nn.Conv2d(8, 8, 3, padding=1), BatchNormAct2d(8),
            nn.Conv2d(8, 4, 1),
        )  # fmt: skip
    else:
        network = initialise(name, ARGUMENTS[name], "shared", "none", "a-seg", 0)
    for norm in norms_of(network):
        norm.running_mean.uniform_(-0.3, 0.3)
        norm.running_var.uniform_(0.005, 0.01)
    return network


def norms_of(network):
    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]


def listed(network):
    """Kernels of odd number; of the first BN its RV, of the second its RM, of the third both."""
    layers = inventory(network)
    chosen = {("RV", 1), ("RM", 2), ("RM", 3), ("RV", 3)}
    return [x for x in layers if x.pair in chosen or (x.kind == "W" and x.layer % 2 and not x.final)]


def enlarged(part):
    """Twice the height and width: of few pixels the batch's variance is less than the population's that BN keeps."""
    image, label = (np.kron(x, np.ones((1, 2, 2), x.dtype)) for x in (part.image, part.label))
    return dataclasses.replace(part, image=image, label=label)


def kept_of(layers, mode):
    """Names of the tensors that keep their value, by the definition of the mode."""
    names = {x.tensor for x in layers}
    if mode == "literal":
        return names
    pairs = {x.pair for x in layers}
    half = {x.tensor for x in layers if x.kind in STATISTICS and not {("RM", x.layer), ("RV", x.layer)} <= pairs}
    return names - half


def difference(a, b):
    return float((a - b).norm() / b.norm())


def test_a_statistic_that_is_put_back_evaluates_another_network():
    """Plain torch, nothing of ours: the trained BN's output has ten times the SD when it is evaluated."""
    torch.manual_seed(0)
    x = 5.0 * torch.randn(128, 3, 6, 6) + 2.0
    norm, head = nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)
    source = torch.full((3,), 0.25)
    norm.running_var.copy_(source)
    adam = torch.optim.Adam([*norm.parameters(), *head.parameters()], 0.02)
    errors = []
    for _ in range(300):
        errors.append((head(norm(x)) - x.mean(1, keepdim=True)).square().mean())
        adam.zero_grad()
        errors[-1].backward()
        adam.step()
        norm.running_var.copy_(source)
    trained = norm(x).detach()
    norm.running_var.copy_(source)
    evaluated = norm.eval()(x).detach()
    assert float(evaluated.std() / trained.std()) == pytest.approx(5 / 0.5, rel=0.05)
    assert errors[-1] < 1e-6
    assert (head(evaluated) - x.mean(1, keepdim=True)).square().mean() > 100


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["unet", "pspnet", "monai", "timm"])
def test_the_network_evaluated_is_the_network_trained(name, mode, slices):
    """At a rate of nearly zero on one batch of all slices, running statistics converge: the two have to agree."""
    network, seen = made(name), {}
    frozen = listed(network)
    own = {x.tensor: network.state_dict()[x.tensor].clone() for x in frozen if x.kind in STATISTICS}

    def look(module, inputs, output):
        if module.training:
            seen["x"], seen["y"] = inputs[0].clone(), output.detach().clone()

    hook = network.register_forward_hook(look)
    for norm in norms_of(network):
        norm.momentum = 0.5
    part = enlarged(slices.split("train"))
    changed = {"steps": 20, "batch_size": len(part.image), "learning_rate": 1e-9, "augment": False}
    settings = SETTINGS.model_copy(update=changed)
    train(network, part, "seg", settings, 0, COMPUTE, frozen=frozen, frozen_statistics=mode)
    hook.remove()
    with torch.no_grad():
        assert difference(network(seen["x"]), seen["y"]) < 0.05
        network.load_state_dict(own, strict=False)
        before = difference(network(seen["x"]), seen["y"])
    assert mode == "literal" or before > 0.5, "the planted statistics do not matter, so nothing was tested"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["unet", "pspnet", "monai"])
def test_frozen_pairs_keep_their_value_bit_for_bit_and_all_others_move(name, mode, slices):
    network = made(name)
    before = copy.deepcopy(network.state_dict())
    frozen = listed(network)
    train(network, slices.split("train"), "seg", SETTINGS, 1, COMPUTE, frozen=frozen, frozen_statistics=mode)
    kept, after = kept_of(frozen, mode), network.state_dict()
    assert len([name for name in kept if "running" in name]) >= 2
    for layer in inventory(network):
        same = torch.equal(after[layer.tensor], before[layer.tensor])
        # A bias before a BN that uses the batch's mean has a gradient of zero, and Adam moves it by rounding only.
        assert same == (layer.tensor in kept) or layer.kind == "B", layer


@pytest.mark.parametrize("keep", STATISTICS.values())
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_one_statistic_kept_by_its_definition(kind, keep):
    torch.manual_seed(1)
    norm = kind(3, affine=True, track_running_stats=True)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.1, 3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    plain, axes = copy.deepcopy(norm), [0, 2, 3] if kind is nn.BatchNorm2d else [2, 3]
    x = (3 * torch.randn(4, 3, 5, 7) + 1).requires_grad_()
    weights = torch.randn(4, 3, 5, 7)
    mean, var = x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)
    if keep == "running_mean":
        mean = norm.running_mean.clone().view(1, 3, 1, 1)
    else:
        var = norm.running_var.clone().view(1, 3, 1, 1)
    expected = (x - mean) / (var + norm.eps).sqrt() * norm.weight.view(1, 3, 1, 1) + norm.bias.view(1, 3, 1, 1)
    gradients = torch.autograd.grad((expected * weights).sum(), [x, norm.weight, norm.bias])
    plain(x)  # torch's own update of the free statistic
    before = getattr(norm, keep).clone()
    with OneStatisticKept({norm: (keep == "running_mean", keep == "running_var")}):
        found = norm(x)
        assert torch.equal(norm.eval()(x), copy.deepcopy(norm)(x)), "evaluation is not touched"
    torch.testing.assert_close(found, expected)
    own_gradients = torch.autograd.grad((found * weights).sum(), [x, norm.weight, norm.bias])
    for own, other in zip(own_gradients, gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    assert torch.equal(getattr(norm, keep), before)
    free = next(name for name in STATISTICS.values() if name != keep)
    torch.testing.assert_close(getattr(norm, free), getattr(plain, free))


def test_what_a_subclass_does_after_its_normalisation_stays():
    norm = BatchNormAct2d(3).train()
    with OneStatisticKept({norm: (False, True)}):
        assert norm(torch.randn(4, 3, 5, 5)).min() == 0, "its ReLU is lost"


def test_only_the_normalisation_is_put_in_evaluation_mode():
    class Dropping(nn.BatchNorm2d):
        def __init__(self, channels):
            super().__init__(channels)
            self.drop = nn.Dropout()

    network = nn.Sequential(Dropping(3))
    Freezing(network, [x for x in inventory(network) if x.kind in STATISTICS])
    assert (network[0].training, network[0].drop.training) == (False, True)


def test_normalisations_without_running_statistics_train_the_same_in_every_mode(slices):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1),
        nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    frozen = [x for x in inventory(network) if x.pair in {("RW", 1), ("RB", 2), ("W", 1)}]
    states = []
    for mode in MODES:
        own = copy.deepcopy(network)
        train(own, slices.split("train"), "seg", SETTINGS, 0, COMPUTE, frozen=frozen, frozen_statistics=mode)
        states.append(own.state_dict())
    before = network.state_dict()
    for name, value in states[0].items():
        assert torch.equal(value, before[name]) == (name in {x.tensor for x in frozen}), name
        assert all(torch.equal(value, state[name]) for state in states[1:]), name


class Tied(nn.Module):
    """One convolution and one BN under two names, one kernel in two convolutions, running statistics in two BNs."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.again, self.norm_again = nn.Conv2d(4, 4, 3, padding=1, bias=False), self.norm
        self.twin, self.norm_twin = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.first_again, self.twin.weight = self.first, self.again.weight
        self.norm_twin.running_mean, self.norm_twin.running_var = self.norm.running_mean, self.norm.running_var
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.norm(self.again(self.norm(self.first(x))))
        return self.last(self.norm_twin(self.twin(x)))


def test_a_tensor_with_several_names_is_frozen_under_all_of_them(slices):
    torch.manual_seed(0)
    network = Tied()
    frozen = [
        Layer("W", 1, "first_again", "first_again.weight", 36, False),
        Layer("W", 3, "twin", "twin.weight", 144, False),
        Layer("RM", 1, "norm_again", "norm_again.running_mean", 4, False),
        Layer("RV", 2, "norm_twin", "norm_twin.running_var", 4, False),
    ]
    before = copy.deepcopy(network.state_dict())
    train(network, slices.split("train"), "seg", SETTINGS, 0, COMPUTE, frozen=frozen)
    held = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    expected = {"first.weight", "first_again.weight", "again.weight", "twin.weight"}
    expected |= {f"{norm}.{x}" for norm in ("norm", "norm_again", "norm_twin") for x in STATISTICS.values()}
    assert {name for name in held if "num_batches" not in name} == expected


def test_estimating_again_is_what_torch_does(slices):
    network = made("unet")
    part = slices.split("train")
    train(network, part, "seg", SETTINGS, 3, COMPUTE, frozen=listed(network), frozen_statistics="reestimated")
    frozen, own = norms_of(network)[2], copy.deepcopy(network)
    rows = batch_order(len(part.image), SETTINGS.batch_size, 2, 3)
    batches = [torch.from_numpy(part.image[row])[:, None] for row in rows]
    for norm in norms_of(own):
        norm.training = True
    norms_of(own)[2].track_running_stats = True
    kept = copy.deepcopy(norms_of(own)[2].state_dict())
    # torch's own estimates every normalisation, so the frozen one is made a fixed affine map for it.
    scale = norms_of(own)[2].weight / (kept["running_var"] + frozen.eps).sqrt()
    fixed = nn.Conv2d(len(scale), len(scale), 1, groups=len(scale))
    fixed.weight.data, fixed.bias.data = scale.view(-1, 1, 1, 1), frozen.bias - kept["running_mean"] * scale
    name = next(n for n, m in own.named_modules() if m is norms_of(own)[2])
    own.set_submodule(name, fixed)
    torch.optim.swa_utils.update_bn(batches, own)
    for (key, found), (_, expected) in zip(network.named_buffers(), network.named_buffers(), strict=True):
        if key.startswith(name):
            continue
        expected = own.state_dict()[key]
        if "num_batches" not in key:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=key)


def test_estimating_again_leaves_the_rest_in_evaluation_mode():
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(), nn.BatchNorm2d(1))
    x = torch.randn(16, 1, 4, 4) * 3
    reestimate(network, network, [network[2]], [x, x])
    assert torch.equal(network[0].running_var, torch.ones(1))
    assert network[2].running_var.item() == pytest.approx(x.var().item(), rel=1e-3), "dropout was on"
    assert network[2].momentum == 0.1
    assert not any(part.training for part in network.modules())


def test_what_is_listed_without_its_partner_is_said(caplog):
    network = made("timm")
    with caplog.at_level(logging.INFO):
        Freezing(network, listed(network))
    assert "the other statistic of the layer is not: RM 2, RV 1" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        Freezing(network, listed(network), "literal")
    assert caplog.text == ""


@pytest.mark.parametrize("other", ["frozen", "statistics", "start", "network"])
def test_a_snapshot_of_another_training_is_not_taken(other, slices, tmp_path, monkeypatch, caplog):
    """The state of a training that began elsewhere, or froze something else, under the same title and file."""

    def run(changed, resume=None):
        network = initialise("unet", {"width": 4}, "shared", "none", "a-seg", 0)
        frozen, mode = listed(network), "both"
        if changed:
            frozen = frozen[1:] if other == "frozen" else frozen
            mode = "literal" if other == "statistics" else mode
            if other == "start":
                network.load_state_dict(
                    initialise("unet", {"width": 4}, "independent", "none", "a-seg", 9).state_dict()
                )
            if other == "network":
                network = initialise("unet", {"width": 6}, "shared", "none", "a-seg", 0)
        part = slices.split("train")
        return train(network, part, "seg", SETTINGS, 1, COMPUTE, frozen=frozen, frozen_statistics=mode, resume=resume)

    original, steps = module.loss_of, iter(range(100))
    monkeypatch.setattr(module, "loss_of", lambda *a: original(*a) if next(steps) != 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(False, tmp_path / ".resume")
    monkeypatch.setattr(module, "loss_of", original)
    found, expected = run(True, tmp_path / ".resume").state_dict(), run(True).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert "of other data or settings" in caplog.text
