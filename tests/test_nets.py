"""Networks: shapes, initialisation, pretrained weights from a local file."""

import pytest
import torch
import torchvision
from conftest import ARGUMENTS, initialise
from safetensors.torch import save_file

from prrmse.errors import InputError
from prrmse.nets.build import build
from prrmse.nets.initialisation import initialised_network
from prrmse.settings import PSPNet


@pytest.mark.parametrize("net", ["unet", "pspnet"])
@pytest.mark.parametrize("size", [32, 48])
def test_output_has_the_inputs_size_and_gradients_reach_every_parameter(net, size):
    network = build(net, **ARGUMENTS[net])
    output = network(torch.randn(2, 1, size, size))
    assert output.shape == (2, 4, size, size)
    output.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_full_size_networks_have_the_counted_scalars():
    from prrmse.nets.layers import inventory

    assert sum(layer.scalars for layer in inventory(build("pspnet"))) == 17_396_676
    assert sum(layer.scalars for layer in inventory(build("unet"))) == 17_275_268


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_shared_init_is_one_draw_independent_is_many():
    def start(init, model, seed):
        return initialise("unet", ARGUMENTS["unet"], init, "none", model, seed)

    assert same(start("shared", "a-seg", 0), start("shared", "b-auto", 1))
    assert same(start("independent", "a-seg", 0), start("independent", "a-seg", 0))
    assert not same(start("independent", "a-seg", 0), start("independent", "a-seg", 1))
    assert not same(start("independent", "a-seg", 0), start("independent", "b-seg", 0))


def test_initialise_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    assert torch.equal(torch.rand(1), expected)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    folder = tmp_path_factory.mktemp("weights")
    torch.save(state, folder / "resnet18.pth")
    save_file(state, folder / "resnet18.safetensors")
    return folder


@pytest.mark.parametrize("name", ["resnet18.pth", "resnet18.safetensors"])
def test_local_weights_load_and_one_channel_equals_three(weights, name):
    grey, colour = (
        initialise("pspnet", {"head_width": 64, "in_channels": c}, "shared", str(weights / name), "a-seg", 0)
        for c in (1, 3)
    )
    colour.load_state_dict({**grey.state_dict(), "backbone.conv1.weight": colour.state_dict()["backbone.conv1.weight"]})
    x = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(grey.eval()(x), colour.eval()(x), rtol=1e-4, atol=1e-4)
    reference = torchvision.models.resnet18()
    reference.load_state_dict(torch.load(weights / "resnet18.pth", weights_only=True))
    assert torch.equal(grey.backbone.layer4[1].conv2.weight, reference.layer4[1].conv2.weight)


def test_backbone_equals_torchvisions_up_to_layer2(weights):
    network = initialise(
        "pspnet", {"in_channels": 3}, "shared", str(weights / "resnet18.pth"), "a-seg", 0
    ).backbone.eval()
    reference = torchvision.models.resnet18()
    reference.load_state_dict(torch.load(weights / "resnet18.pth", weights_only=True))
    x = torch.randn(1, 3, 64, 64)

    def half(net):
        return net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))

    assert torch.equal(half(network), half(reference.eval()))


def test_one_of_several_states_of_a_file_of_weights(weights, tmp_path):
    state = torch.load(weights / "resnet18.pth", weights_only=True)
    torch.save({"teacher": {k: torch.zeros_like(v) for k, v in state.items()}, "student": state}, tmp_path / "two.pth")

    def begun(entry):
        pretrained = {"file": str(tmp_path / "two.pth"), "part": "backbone.", "entry": entry}
        spec = PSPNet.model_validate({"arguments": {"head_width": 64}, "pretrained": pretrained})
        return initialised_network("pspnet", spec, "shared", "a-seg", 0).backbone.layer1[0].conv1.weight

    assert not begun(None).any()
    assert torch.equal(begun("student"), state["layer1.0.conv1.weight"])
    with pytest.raises(InputError, match=r"two\.pth: entry pupil: no such state; it has teacher, student"):
        begun("pupil")


def test_bad_weights_are_one_error(weights, tmp_path):
    def load(path):
        initialise("pspnet", {}, "shared", str(path), "a-seg", 0)

    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(InputError, match="not a complete checkpoint"):
        load(tmp_path / "text.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not fit all of part backbone"):
        load(tmp_path / "other.pth")
    with pytest.raises(InputError, match="does not fit all of part backbone"):
        initialise("pspnet", {"width": 32}, "shared", str(weights / "resnet18.pth"), "a-seg", 0)
    with pytest.raises(InputError, match="unknown network"):
        build("vgg")
