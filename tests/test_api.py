"""The library face, on networks of others: what it lists, compares, sweeps, advises and writes."""

import copy
import doctest
import json

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise
from safetensors.torch import load_file
from test_sweep import Alive
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from prrmse import api
from prrmse.errors import InputError
from prrmse.learning.evaluate import Evaluation, output_of
from prrmse.learning.reach import without_effect
from prrmse.learning.train import train
from prrmse.nets.foreign import fit
from prrmse.nets.layers import inventory, inventory_of_state
from prrmse.settings import Verdict


def torchvision_model(name, **arguments):
    import torchvision.models as models

    family = models if name == "resnet18" else models.segmentation
    return getattr(family, name)(weights=None, **arguments)


def monai_unet(dimensions):
    from monai.networks.nets import UNet

    return UNet(dimensions, 1, 3, (4, 8, 16), (2, 2), num_res_units=1)


def smp_pspnet():
    import segmentation_models_pytorch as smp

    return smp.PSPNet("resnet18", encoder_weights=None, in_channels=1, classes=3)


def timm_model(name):
    import timm

    return timm.create_model(name, pretrained=False, num_classes=3, in_chans=1)


SEGMENTATION = {"weights_backbone": None, "num_classes": 3}
# Network, its input, and its numbers of W, B, RM and RW pairs, counted from its papers' or its own description.
NETWORKS = {
    "resnet18": (lambda: torchvision_model("resnet18"), (1, 3, 32, 32), (20, 0, 20, 20)),
    "fcn_resnet50": (lambda: torchvision_model("fcn_resnet50", **SEGMENTATION), (1, 3, 32, 32), (55, 1, 54, 54)),
    "deeplabv3_resnet50": (
        lambda: torchvision_model("deeplabv3_resnet50", **SEGMENTATION),
        (1, 3, 32, 32),
        (61, 1, 60, 60),
    ),
    # instance normalisation without parameters: convolutions only, of 3 levels, transposed ones on the way up
    "monai_unet_2d": (lambda: monai_unet(2), (1, 1, 32, 32), (10, 10, 0, 0)),
    "monai_unet_3d": (lambda: monai_unet(3), (1, 1, 16, 16, 16), (10, 10, 0, 0)),
    "smp_pspnet": (smp_pspnet, (1, 1, 64, 64), None),
    "timm_resnet18": (lambda: timm_model("resnet18"), (1, 1, 32, 32), (20, 0, 20, 20)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_others_pass_inspect_compare_and_sweep(name, tmp_path):
    build, shape, numbers = NETWORKS[name]
    torch.manual_seed(0)
    network, source = build().eval(), build().eval()
    listed = api.inspect(network)
    if numbers is not None:
        found = listed["kind"].value_counts()
        assert tuple(found.get(kind, 0) for kind in ("W", "B", "RM", "RW")) == numbers
    torch.save(network.state_dict(), tmp_path / "a.pth")
    torch.save({"model": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "b.pth")
    assert api.inspect(tmp_path / "a.pth")["tensor"].tolist() == listed["tensor"].tolist()
    distances, fits = api.compare(tmp_path / "a.pth", tmp_path / "b.pth")
    assert set(fits["status"]) == {"same"}
    assert len(distances) == len(listed)
    kernels = distances[distances["kind"] == "W"]
    assert kernels["rmse_relative"].between(0.5, 1.5).all(), "independent draws are uncorrelated"

    image = torch.rand(shape)
    calls = []

    @torch.no_grad()
    def evaluate(model):
        calls.append(1)
        output = model(image)
        output = output["out"] if isinstance(output, dict) else output
        return {"mean": float(output.mean()), "sd": float(output.std())}

    before = copy.deepcopy(network.state_dict())
    layers = inventory(network)[:: max(1, len(listed) // 6)]
    table = api.sweep(network, tmp_path / "b.pth", evaluate, layers=layers)
    assert len(calls) == 1 + len(layers)
    assert len(table) == 2 * len(layers)
    moved = table[table["kind"] == "W"]
    assert (moved["score"] != moved["baseline"]).any()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items()), "the network was changed"


def test_kinds_of_other_normalisations_and_convolutions():
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, groups=1), nn.InstanceNorm3d(4, affine=True, track_running_stats=True),
        nn.ConvTranspose3d(4, 4, 2), nn.GroupNorm(2, 4), nn.Conv3d(4, 4, 1, groups=2, bias=False),
    )  # fmt: skip
    found = [(x.kind, x.layer, x.module) for x in inventory(network)]
    assert found == [
        ("W", 1, "0"), ("W", 2, "2"), ("W", 3, "4"), ("B", 1, "0"), ("B", 2, "2"),
        ("RM", 1, "1"), ("RV", 1, "1"), ("RW", 1, "1"), ("RW", 2, "3"), ("RB", 1, "1"), ("RB", 2, "3"),
    ]  # fmt: skip
    assert [x._replace(final=False) for x in inventory(network)] == inventory_of_state(network.state_dict())
    assert [x.module for x in inventory(network) if x.final] == ["4"]


@pytest.fixture(scope="module")
def target(slices_module):
    network = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    settings = SETTINGS.model_copy(update={"steps": 60, "learning_rate": 0.01, "augment": False})
    return train(network, slices_module.split("train"), "seg", settings, 0, COMPUTE)


@pytest.fixture(scope="module")
def slices_module(request):
    return request.getfixturevalue("slices")


def test_sweep_with_an_evaluation_equals_a_callable(target, slices):
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    source = initialise("unet", ARGUMENTS["unet"], "independent", "none", "b-seg", 0).state_dict()
    layers = inventory(target)[::9]

    def evaluate(model):
        return api._mean_dice(evaluation, evaluation.counts(evaluation.place(copy.deepcopy(model))))

    fast = api.sweep(target, source, evaluation, layers=layers)
    plain = api.sweep(target, source, evaluate, layers=layers)
    assert fast.drop(columns=["score", "baseline"]).equals(plain.drop(columns=["score", "baseline"]))
    np.testing.assert_allclose(fast["score"], plain["score"], atol=1e-4)


def test_early_stopping_needs_patients_and_a_rule(target, slices):
    network, evaluation = target, Evaluation(slices.split("val"), COMPUTE, 4)
    state = network.state_dict()
    with pytest.raises(InputError, match="until_decided.*needs a prrmse.learning.evaluate.Evaluation"):
        api.sweep(network, state, lambda model: 1.0, until_decided=0.05)
    with pytest.raises(InputError, match="stopping.*name one of guaranteed, normal"):
        api.sweep(network, state, evaluation, until_decided=0.05, stopping="any")
    with pytest.raises(InputError, match="tolerance"):
        api.sweep(network, state, evaluation, until_decided=0.05, tolerance=float("nan"))
    whole = api.sweep(network, state, evaluation, until_decided=0.05, tolerance=0.05)
    assert set(whole.attrs["measured"].values()) == {2}, "of two patients all are measured"


def test_a_sweep_with_a_callable_holds_one_swap_at_a_time():
    """Both networks, one copy by which a changed model is noticed, and one tensor: not a state for each pair."""
    network, source = (nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(20))) for _ in range(2))
    with Alive() as alive:
        api.sweep(network, source.state_dict(), lambda model: float(model[3].weight.sum()))
    sizes = [tensor.nbytes for tensor in network.state_dict().values()]
    assert alive.peak < 3 * sum(sizes) + 2 * max(sizes)


def test_advice_prefers_the_twin_and_warmstart_writes_it(target, slices, tmp_path):
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    twin = {k: v.clone() for k, v in target.state_dict().items()}
    noise = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in twin.items()}
    partly = {k: noise[k] if k.startswith("up") else v for k, v in twin.items()}
    advice = api.advise(
        target, {"noise": noise, "partly": partly, "twin": twin}, evaluation, settings=Verdict(tolerance=0.02)
    )
    assert advice.ranking["source"].tolist() == ["twin", "partly", "noise"]
    best = advice.ranking.iloc[0]
    assert best["reusable_scalars"] == 1
    assert best["joint_change"] == best["joint_low"] == best["joint_high"] == 0
    assert best["rmse_relative"] == 0
    half = advice.verdicts[(advice.verdicts["source"] == "partly") & advice.verdicts["reusable"]]
    reused = [x for x in inventory(target) if x.tensor in set(half["tensor"]) and not x.final]
    start = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    found = api.warmstart(start, partly, reused, tmp_path / "warm.safetensors", note="a test")
    written = load_file(tmp_path / "warm.safetensors")
    for name, tensor in start.state_dict().items():
        assert torch.equal(written[name], partly[name] if name in found["reused"] else tensor), name
    assert json.loads((tmp_path / "warm.json").read_text()) == {**found, "note": "a test"}
    # The two lines of the documentation:
    start.load_state_dict(written)
    frozen = set(found["freeze"])
    for name, parameter in start.named_parameters():
        parameter.requires_grad_(name not in frozen)
    assert sum(not p.requires_grad for p in start.parameters()) == len(frozen) > 0


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(api).failed == 0
    assert doctest.testmod(api).attempted > 0


class Storages(TorchDispatchMode):
    """Bytes of all tensors alive that operations have made, at most."""

    def __init__(self):
        super().__init__()
        self.made, self.peak = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.made = {key: found for key, found in self.made.items() if not found[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.made.values()))
        return result


def test_a_sweep_with_an_own_evaluate_holds_one_copy_of_the_network_however_many_pairs():
    network = nn.Sequential(*(nn.Conv2d(16, 16, 3) for _ in range(12)))
    source = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    with Storages() as storages:
        table = api.sweep(network, source, lambda model: float(model[3].weight.mean().detach()))
    assert len(table) == 24
    assert (table["score"] != table["baseline"]).sum() == 1
    # The network itself, which the state_dict shows, and one copy.
    assert storages.peak < 2.1 * sum(tensor.nbytes for tensor in source.values())


def test_a_sweep_restores_the_network_when_the_evaluation_fails():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)).eval()
    before = copy.deepcopy(network.state_dict())
    source = {name: tensor + 1 for name, tensor in before.items()}
    calls = []

    def evaluate(model):
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("the user's own")
        return 0.0

    with pytest.raises(KeyError, match="the user's own"):
        api.sweep(network, source, evaluate)
    with pytest.raises(ValueError, match=r"evaluate changes the model's 1\.running_mean; call model\.eval\(\)"):
        api.sweep(network, source, lambda model: model.train()(torch.rand(2, 1, 4, 4)).mean().item())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


class Detached(nn.Module):
    """``gate`` acts without a gradient, ``unused`` not at all; ``norm`` has buffers only."""

    def __init__(self):
        super().__init__()
        self.body, self.gate, self.unused = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)
        self.norm, self.idle = nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2, affine=False)

    def forward(self, x, *, scale):
        self.idle(self.unused(x))
        return self.norm(self.body(x)) * self.gate(x).detach().sigmoid() * scale


def test_a_pair_that_present_values_mute_has_an_effect_and_no_drop():
    torch.manual_seed(0)
    network, source = (
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1)).eval() for _ in range(2)
    )
    nn.init.zeros_(network[1].weight)
    image = torch.rand(1, 1, 4, 4)

    @torch.no_grad()
    def evaluate(model):
        return float(model(image).mean())

    table = api.sweep(network, source.state_dict(), evaluate).set_index("tensor")
    assert table["effect"].all()
    assert (table["score"] == table["baseline"])[["0.weight", "0.bias", "1.running_mean"]].all()
    assert table.loc["1.weight", "score"] != table.loc["1.weight", "baseline"]


def test_what_has_no_effect_is_found_by_the_graph_or_by_trying():
    network = Detached().eval()
    network.body.weight.requires_grad_(False)
    names = list(network.state_dict())
    before = copy.deepcopy(network.state_dict())
    found = without_effect(network, names, torch.rand(1, 1, 4, 4), scale=2.0)
    counters = {name for name in names if name.endswith("num_batches_tracked")}
    assert found == counters | {"unused.weight", "unused.bias", "idle.running_mean", "idle.running_var"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.body.weight.requires_grad


def test_the_output_that_counts():
    a, b = torch.zeros(1), torch.ones(1)
    for made in (a, [a, b], (a, 3), {"aux": b, "out": a}, {"logits": a, "loss": None}, [{"out": [a, b]}]):
        assert output_of(made) is a
    for made, named in (({"x": a, "y": b}, "a dict of x, y"), ([], "a list"), (None, "a NoneType")):
        with pytest.raises(InputError, match=f"the network's output is {named}; wrap it"):
            output_of(made)


def test_names_of_one_tensor_that_offer_two_values_are_not_taken():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    network[1].weight = network[0].weight
    source = {name: torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
    fitted, table = fit(network.state_dict(), source)
    assert set(fitted) == {"0.bias", "1.bias"}
    assert table.set_index("tensor")["status"].to_dict() == {
        "0.weight": "ambiguous",
        "0.bias": "same",
        "1.bias": "same",
    }


def test_a_layer_without_shape_is_refused():
    with pytest.raises(InputError, match=r"^weight: has no shape yet .* run the network once"):
        inventory(nn.LazyConv2d(2, 3))
