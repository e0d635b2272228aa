"""Every network of the zoo, by every way: the answers are those of an oracle that assigns tensors in place."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
import zoo
from safetensors.torch import load_file
from torch import nn

from prrmse import api
from prrmse.names import Layer
from prrmse.nets.build import build_network
from prrmse.nets.checkpoint import load_checkpoint, load_network, save_checkpoint
from prrmse.nets.foreign import fit, read_state
from prrmse.nets.layers import CONVOLUTIONS, NORMS, inventory, tensor_names
from prrmse.settings import Verdict

SAMPLED = 5
# Networks that cannot be traced: the engines run them whole.
UNTRACED = {"a value read after a change in place"}
# Pairs that reach the output, but whose contribution the values of these untrained networks set to zero: behind a gain
# that starts at 0, before a ReLU whose inputs are all negative. What is asked is whether a pair can change the output.
MUTED = {"smp PAN": ["decoder.fpa."], "timm test_nfnet": ["stages."]}
# What does not reach the output.
INEFFECTIVE = {
    "nnU-Net": ["decoder.seg_layers.0."],
    "MONAI DynUNet 2D, deep supervision": ["deep_supervision_heads."],
    "MONAI SegResNetDS": ["up_layers.0.head."],
    "BasicUNetPlusPlus": ["final_conv_0_1.", "final_conv_0_2.", "final_conv_0_3."],
    "auxiliary": ["aux_classifier.", "aux1.", "aux2."],
    "UNETR": ["norm_cross_attn"],
}


class Case(NamedTuple):
    name: str
    network: nn.Module
    source: nn.Module
    layers: list[Layer]
    expected: zoo.Expected


@pytest.fixture(scope="module", params=zoo.ZOO)
def case(request):
    name = request.param
    network, source = zoo.make(name, 0), zoo.make(name, 1)
    every = inventory(network)
    layers = random.Random(name).sample(every, min(SAMPLED, len(every)))
    case = Case(name, network, source, layers, zoo.oracle(name, network, source, layers))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    yield case
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), (
        "the network was changed"
    )
    assert not network.training


def attribute(network, layer):
    """A pair's tensor, not by its name in a state."""
    return getattr(network.get_submodule(layer.module), layer.tensor.rpartition(".")[2])


def test_each_tensor_is_one_pair_and_what_has_no_kind_is_counted(case, tmp_path):
    tensors = {
        id(tensor)
        for module in case.network.modules()
        if isinstance(module, (*CONVOLUTIONS, *NORMS))
        for name in ("weight", "bias", "running_mean", "running_var")
        if (tensor := module._parameters.get(name, module._buffers.get(name))) is not None
    }
    table = api.inspect(case.network)
    assert len(table) == len(tensors) == len({id(attribute(case.network, x)) for x in inventory(case.network)})
    of_pairs = sum(attribute(case.network, x).numel() for x in inventory(case.network) if x.kind not in ("RM", "RV"))
    without = table.attrs["without_kind"]
    assert of_pairs + sum(without.values()) == sum(p.numel() for p in case.network.parameters())
    torch.save(case.network.state_dict(), tmp_path / "a.pth")
    assert sorted(api.inspect(tmp_path / "a.pth")["tensor"]) == sorted(table["tensor"])


def test_compare_is_by_tensor(case, tmp_path):
    for file, network in (("a.pth", case.network), ("b.pth", case.source)):
        torch.save(network.state_dict(), tmp_path / file)
    distances, fits = api.compare(tmp_path / "a.pth", tmp_path / "b.pth")
    assert set(fits["status"]) == {"same"}
    assert len(fits) == len(tensor_names(case.network.state_dict()))
    found = distances.set_index("tensor")["rmse"]
    assert len(found) == len(inventory(case.network))
    for layer in case.layers:
        difference = (attribute(case.network, layer) - attribute(case.source, layer)).detach().double()
        assert found[layer.tensor] == pytest.approx(float(difference.square().mean().sqrt()), rel=1e-4)


@pytest.mark.parametrize("engine", ["plain", "exact", "fast"])
def test_engines_answer_as_the_oracle(case, engine):
    if not zoo.ZOO[case.name].has_slices:
        pytest.skip("no slices")
    answer = zoo.swept(case.name, case.network, case.source, case.layers, engine)
    assert zoo.differing(case.name, answer.counts, case.expected, engine) == 0
    assert answer.fell_back == (engine != "plain" and case.name in UNTRACED)


def reaches(case):
    """Of each pair whether it can change the output: it does, or it is known to be muted."""
    parts = next((parts for key, parts in MUTED.items() if key in case.name), [])
    moved = zip(case.layers, case.expected.moved(), strict=True)
    return [moves or any(part in layer.tensor for part in parts) for layer, moves in moved]


def test_own_evaluate_answers_as_the_oracle_and_each_swap_acts_or_is_named(case):
    evaluate = zoo.score(case.name)
    table = api.sweep(case.network, case.source.state_dict(), evaluate, layers=case.layers)
    own = list(evaluate(case.network).values())
    for layer, moves in zip(case.layers, reaches(case), strict=True):
        rows = table[table["tensor"] == layer.tensor]
        with zoo.assigned(case.network, case.source, [layer]):
            assert rows["score"].tolist() == list(evaluate(case.network).values()), layer
        assert rows["baseline"].tolist() == own
        assert rows["effect"].eq(moves).all(), layer
        starts = next((starts for key, starts in INEFFECTIVE.items() if key in case.name), [])
        assert moves != any(part in layer.tensor for part in starts), layer


def test_advice_leaves_out_what_has_no_effect(case, monkeypatch):
    """Of a source that has the sampled tensors only."""
    monkeypatch.setattr(api, "PIXELS", 200)
    evaluate = zoo.evaluation(case.name) if zoo.ZOO[case.name].has_slices else zoo.score(case.name)
    offered = {layer.tensor: attribute(case.source, layer).detach() for layer in case.layers}
    advice = api.advise(case.network, {"other": offered}, evaluate, settings=Verdict(tolerance=0.02, resamples=100))
    verdict, best = advice.verdicts, advice.ranking.iloc[0]
    assert set(verdict["tensor"]) == set(offered)
    effect = dict(zip((x.tensor for x in case.layers), reaches(case), strict=True))
    assert verdict["effect"].tolist() == [effect[tensor] for tensor in verdict["tensor"]]
    final = zoo.FINAL.get(case.name, [x.module for x in inventory(case.network) if x.final])
    body = [x for x in case.layers if effect[x.tensor] and x.module not in final]
    reusable = set(verdict.loc[verdict["reusable"], "tensor"])
    reused = [x for x in body if x.tensor in reusable]
    shares = [
        sum(of(x) for x in reused) / sum(of(x) for x in body) if body else np.nan
        for of in (lambda x: 1, lambda x: x.scalars)
    ]
    assert [best["reusable_pairs"], best["reusable_scalars"]] == pytest.approx(shares, nan_ok=True)
    if not zoo.ZOO[case.name].has_slices:
        own = np.mean(list(evaluate(case.network).values()))
        with zoo.assigned(case.network, case.source, reused):
            assert best["joint_change"] == pytest.approx(np.mean(list(evaluate(case.network).values())) - own, abs=1e-7)


def test_warm_start_is_what_the_model_loads(case, tmp_path):
    found = api.warmstart(case.network, case.source.state_dict(), case.layers, tmp_path / "warm.safetensors")
    fresh = zoo.make(case.name, 2)
    fresh.load_state_dict(load_file(tmp_path / "warm.safetensors"))
    for layer in inventory(fresh):
        origin = case.source if layer in case.layers else case.network
        assert torch.equal(attribute(fresh, layer), attribute(origin, layer)), layer
    with zoo.assigned(case.network, case.source, case.layers):
        assert torch.equal(zoo.called(case.name, case.network), zoo.called(case.name, fresh))
    frozen = [p for name, p in fresh.named_parameters() if name in found["freeze"]]
    assert len(frozen) == sum(layer.kind not in ("RM", "RV") for layer in case.layers)
    listed = api.inspect(tmp_path / "warm.safetensors")
    assert listed["tensor"].tolist() == [layer.tensor for layer in inventory(fresh)]


def test_saved_and_loaded_by_all_names_or_one(case, tmp_path):
    names = tensor_names(case.network.state_dict())
    header = {
        "net": "x",
        "factory": "zoo:ZOO",
        "arguments": {},
        "layers": [x._asdict() for x in inventory(case.network)],
    }
    save_checkpoint(case.network, tmp_path / "a.safetensors", header)
    assert set(load_file(tmp_path / "a.safetensors")) == set(names), "stored once"
    assert len(load_checkpoint(tmp_path / "a.safetensors")[0]) == len(case.network.state_dict())
    assert len(api.inspect(tmp_path / "a.safetensors")) == len(inventory(case.network))
    expected = zoo.called(case.name, case.network)
    torch.save({key: value.clone() for key, value in case.network.state_dict().items()}, tmp_path / "all.pth")
    torch.save({given[-1]: case.network.state_dict()[name] for name, given in names.items()}, tmp_path / "last.pth")
    fresh = zoo.make(case.name, 2)
    for file in ("a.safetensors", "all.pth", "last.pth"):
        for tensor in fresh.state_dict().values():
            tensor.zero_()
        fitted, table = fit(fresh.state_dict(), read_state(tmp_path / file))
        assert set(table["status"]) == {"same"}, file
        fresh.load_state_dict(fitted)
        assert torch.equal(zoo.called(case.name, fresh), expected), file


class Rebuilt(zoo.Tied):
    """By an import path."""


def test_a_checkpoint_rebuilds_a_network_whose_names_share_tensors(tmp_path):
    torch.manual_seed(0)
    network = Rebuilt().eval()
    save_checkpoint(network, tmp_path / "a.safetensors", {"net": "own", "factory": "test_zoo:Rebuilt", "arguments": {}})
    loaded, _ = load_network(tmp_path / "a.safetensors", "test_zoo:Rebuilt", trust=True)
    assert loaded.back.weight is loaded.there.weight
    x = torch.rand(1, 1, 8, 8)
    assert torch.equal(loaded(x), network(x))
    assert isinstance(build_network("test_zoo:Rebuilt", {}, trust=True), Rebuilt)
