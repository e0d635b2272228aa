"""Distances say of twins what they must, on both networks."""

import copy

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise
from torch import nn
from torch.nn import functional as F

from prrmse.compare.features import sample_pixels
from prrmse.compare.similarity import DISTANCES, SIMILARITIES, folded, similarity_table
from prrmse.engine.program import norms_behind
from prrmse.engine.trace import trace
from prrmse.experiments.control import control_state
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.learning.train import train

IMAGE = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["unet", "pspnet"])
def tables(request, slices):
    """The target, and its similarity to controls."""
    net = request.param
    target = initialise(net, ARGUMENTS[net], "shared", "none", "a-seg", 0)
    initial = copy.deepcopy(target.state_dict())
    settings = SETTINGS.model_copy(update={"steps": 30, "learning_rate": 0.01, "augment": False})
    train(target, slices.split("train"), "seg", settings, 0, COMPUTE)
    evaluation = Evaluation(slices.split("train"), COMPUTE, 4)
    pixels = sample_pixels(evaluation, 800, 0)
    before = copy.deepcopy(target.state_dict())
    found = {}
    for name in ("self", "permuted", "rescaled", "random", "initialisation"):
        state = control_state(name, target, IMAGE, 1, initial)
        found[name] = similarity_table(target, state, initial, evaluation, pixels, 0).set_index("layer")
    twin = copy.deepcopy(target)
    twin.load_state_dict(control_state("rescaled", target, IMAGE, 1, None))
    both = control_state("permuted", twin, IMAGE, 1, None)
    found["both"] = similarity_table(target, both, initial, evaluation, pixels, 0).set_index("layer")
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items()), "the target was changed"
    return target, found


def test_the_target_is_at_no_distance_from_itself(tables):
    _, found = tables
    assert (found["self"][list(DISTANCES)] == 0).all().all()
    assert np.allclose(found["self"]["cka"], 1)
    assert np.allclose(found["self"]["task_cosine"].dropna(), 1)
    assert (found["initialisation"]["distance_ratio"].dropna() == 1).all()


def test_a_permuted_twin_is_far_until_it_is_aligned(tables):
    _, found = tables
    twin = found["permuted"]
    assert twin[~twin["final"]]["rmse_relative"].median() > 0.5
    assert np.allclose(twin[["rmse_aligned", "rmse_folded_aligned"]], 0, atol=1e-6)
    assert np.allclose(twin["cka"], 1), "CKA does not see the order of channels"


def test_a_rescaled_twin_is_far_until_it_is_folded(tables):
    target, found = tables
    twin = found["rescaled"]
    behind = set(norms_behind(trace(target, IMAGE), target))
    scaled = twin[twin["module"].isin(behind)]
    assert scaled["rmse_relative"].min() > 0.2
    assert np.allclose(twin["rmse_folded"], 0, atol=1e-4)
    assert np.allclose(found["both"]["rmse_folded_aligned"], 0, atol=1e-4)
    assert found["both"]["rmse_folded"].max() > 0.5
    assert found["both"].loc[found["both"]["module"].isin(behind), "rmse_aligned"].min() > 0.2


def test_random_kernels_are_uncorrelated(tables):
    _, found = tables
    large = found["random"][found["random"]["scalars"] > 500]
    assert large["rmse_relative"].between(0.7, 1.3).all()
    assert large["task_cosine"].abs().max() < 0.9
    assert large["rmse_weighted"].min() > 0.3
    assert set(found["random"].columns) >= {*DISTANCES, *SIMILARITIES}


def test_folding_leaves_the_function(tables):
    target, _ = tables
    twin = copy.deepcopy(target)
    twin.load_state_dict(folded(target.state_dict(), target, norms_behind(trace(target, IMAGE), target)))
    with torch.no_grad():
        expected = target(IMAGE)
        torch.testing.assert_close(twin(IMAGE), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("change", ["folded", "rescaled"])
def test_an_encoder_of_timm_is_folded_and_rescaled_as_any_other(change):
    """Its convolutions and normalisations are functions, called with what its modules hold."""
    torch.manual_seed(0)
    network = smp.PSPNet("tu-tf_efficientnet_lite0", encoder_weights=None, encoder_depth=3, classes=4).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    image = torch.rand(1, 3, 64, 64)
    behind, state = norms_behind(trace(network, image), network), network.state_dict()
    assert set(behind.values()) == {layer.module for layer in reaching(network, image) if layer.kind == "RM"}
    made = folded(state, network, behind) if change == "folded" else control_state("rescaled", network, image, 0, None)
    assert not torch.equal(made["encoder.model.conv_stem.weight"], state["encoder.model.conv_stem.weight"])
    twin = copy.deepcopy(network)
    twin.load_state_dict(made)
    with torch.no_grad():
        expected = network(image)
        torch.testing.assert_close(twin(image), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


class Odd(nn.Module):
    """What must not be folded: two normalisations read one kernel; a bias is left out; a kernel is of its own kind."""

    def __init__(self):
        super().__init__()
        self.twice, self.first, self.second = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.bare, self.behind = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.own, self.last = nn.Module(), nn.BatchNorm2d(4)
        self.own.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

    def forward(self, x):
        x = self.first(self.twice(x)) + self.second(self.twice(x))
        x = self.behind(F.conv2d(x, self.bare.weight))
        return self.last(F.conv2d(x, self.own.weight))


def test_what_cannot_be_folded_is_left():
    network = Odd().eval()
    assert norms_behind(trace(network, IMAGE), network) == {}


def test_weighted_distance_equals_its_definition(slices):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1, bias=False)).eval()
    source = {k: torch.randn_like(v) for k, v in network.state_dict().items()}
    evaluation = Evaluation(slices.split("train"), COMPUTE, 4)
    pixels = sample_pixels(evaluation, 100, 0)
    table = similarity_table(network, source, network.state_dict(), evaluation, pixels, 0).set_index("module")
    with torch.no_grad():
        inputs = network[:2](torch.from_numpy(slices.split("train").image).unsqueeze(1))
    patches = nn.functional.unfold(inputs, 3, padding=1).transpose(1, 2).reshape(-1, 27).double()
    moment = patches.T @ patches
    kernel = network[2].weight.detach().flatten(1).double()
    difference = source["2.weight"].flatten(1).double() - kernel
    expected = torch.sqrt(torch.trace(difference @ moment @ difference.T) / torch.trace(kernel @ moment @ kernel.T))
    assert table.loc["2", "rmse_weighted"] == pytest.approx(float(expected), rel=1e-5)
    assert np.isnan(table.loc["2", "task_cosine"]), "the target did not move"
