"""A rewritten network computes what the network does, whatever odd way it is written in."""

import types

import numpy as np
import pytest
import torch
from conftest import COMPUTE
from torch import nn
from torch.nn import functional as F

from prrmse.engine import sweep as module
from prrmse.engine.rewrite import rewrite
from prrmse.engine.sweep import sweep
from prrmse.engine.trace import trace
from prrmse.learning.evaluate import Evaluation, layout_of
from prrmse.nets.layers import inventory


class Cell(nn.Module):
    """A convolution and running statistics, all tensors of one module; its bias is the convolution's, or the shift."""

    def __init__(self, shift):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 1, 3, 3)), nn.Parameter(torch.randn(8))
        self.register_buffer("running_mean", torch.randn(8))
        self.register_buffer("running_var", torch.rand(8) + 0.5)
        self.shift = shift

    def forward(self, x):
        x = F.conv2d(x, self.weight, None if self.shift else self.bias, padding=1)
        return F.batch_norm(x, self.running_mean, self.running_var, None, self.bias if self.shift else None)


class Ends(nn.Module):
    """What is asked about, between a convolution of 16 channels and one of 4."""

    def __init__(self, inner=None, outputs=16):
        super().__init__()
        self.stem = nn.Conv2d(1, outputs, 3, padding=1)
        self.inner = inner if inner is not None else nn.Identity()
        self.out = nn.Conv2d(outputs, 4, 1)

    def forward(self, x):
        return self.out(self.inner(self.stem(x)))


class Functions(Ends):
    """Convolutions as functions, in ways that are rarely used."""

    def __init__(self, how):
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return self.out(F.relu(self.how(F.relu(self.stem(x)), self.conv)))


class EpsIsATensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16)
        self.register_buffer("eps", torch.tensor(0.5, dtype=torch.float64))
        self.norm.running_var.uniform_(0, 0.001)

    def forward(self, x):
        n = self.norm
        return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, self.eps)


class StaysInTraining(nn.BatchNorm2d):
    """As a network whose `train` leaves some modules as they are."""

    def train(self, mode=True):
        return super().train(True)


def patched(made, name, function):
    setattr(made, name, types.MethodType(function, made))
    return made


def circular(self, x, weight, bias):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), weight, bias)


def left_in_training():
    """Of torch's own class."""
    network = Ends(nn.BatchNorm2d(16))
    network.train = lambda mode=True: network
    network.inner.train()
    network.stem.eval()
    network.out.eval()
    return network


ODD = {
    "bias of the convolution beside statistics": lambda: nn.Sequential(Cell(False), nn.ReLU(), nn.Conv2d(8, 4, 1)),
    "shift of the normalisation beside the kernel": lambda: nn.Sequential(Cell(True), nn.ReLU(), nn.Conv2d(8, 4, 1)),
    "eps is a tensor": lambda: Ends(EpsIsATensor()),
    "a subclass that stays in training mode": lambda: Ends(StaysInTraining(16)),
    "left in training mode": left_in_training,
    "a convolution of its own kind": lambda: Ends(patched(nn.Conv2d(16, 16, 3, padding=1), "_conv_forward", circular)),
    "an activation of its own kind": lambda: Ends(patched(nn.ReLU(), "forward", lambda self, x: x.abs())),
    "keywords, the image last": lambda: Functions(lambda x, c: F.conv2d(weight=c.weight, bias=c.bias, input=x)),
    "keywords, the image first": lambda: Functions(lambda x, c: F.conv2d(input=x, weight=c.weight, padding=1)),
    "one number in a list": lambda: Functions(lambda x, c: F.conv2d(x, c.weight, c.bias, stride=(2,), padding=[1])),
    "padding by name": lambda: Functions(lambda x, c: F.conv2d(x, c.weight, c.bias, padding="same")),
    "a module with one number": lambda: Ends(nn.Conv2d(16, 16, 3, padding=(1,))),
    "wide, one number": lambda: Ends(nn.Conv2d(256, 256, 3, padding=(1,)), 256),
    "resized by keyword": lambda: Functions(
        lambda x, c: F.conv2d(F.interpolate(input=x, scale_factor=4.0, mode="bilinear"), c.weight, c.bias, padding=(1,))
    ),
    "two activations": lambda: Ends(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU6(), nn.LeakyReLU(-0.5))),
    "normalised twice": lambda: Ends(nn.Sequential(nn.BatchNorm2d(16), nn.Dropout(), nn.BatchNorm2d(16), nn.SiLU())),
    "activation before normalisation": lambda: Ends(nn.Sequential(nn.Hardswish(), nn.BatchNorm2d(16))),
}


@torch.inference_mode()
def both(network, image):
    """Outputs of the network and of its rewritten program."""
    network = network.train(False) if "train" not in vars(network) else network
    traced = trace(network, image[:1])
    program = rewrite(traced, traced.outline(image), torch.float32, image.device)
    made = program.record(()).run({program.image: image.contiguous(memory_format=layout_of(image.ndim))})
    return network(image), made[program.output]


@pytest.mark.parametrize("name", ODD)
def test_what_is_written_in_an_odd_way_is_understood_or_left_alone(name):
    torch.manual_seed(0)
    network = ODD[name]()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            nn.init.normal_(part.weight)
    expected, found = both(network, 3 * torch.randn(2, 1, 24, 24) + 1)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_3d_is_rewritten_too():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.LeakyReLU(0.1),
        nn.Conv3d(6, 4, (1, 3, 3), stride=(1, 2, 2)),
    )
    network[1].running_mean.normal_()
    image = torch.randn(2, 1, 6, 12, 12)
    expected, found = both(network.eval(), image)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    traced = trace(network, image[:1])
    steps = rewrite(traced, traced.outline(image), torch.float32, image.device).steps
    assert [type(step).__name__ for step in steps.values()][:4] == ["Conv", "Affine", "Conv", "Affine"]


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_instance_normalisation_rounds_no_more_than_five_times_torchs_own_far_from_zero(dimensions, affine):
    """Of a mean a hundred times the deviation, or none: a difference of mean squares would lose it."""
    torch.manual_seed(0)
    conv, norm = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[dimensions - 2]
    network = nn.Sequential(conv(1, 6, 3), norm(6, affine=affine), nn.Dropout(), nn.LeakyReLU(0.1))
    if affine:
        nn.init.normal_(network[1].weight)
        nn.init.normal_(network[1].bias)
    nn.init.constant_(network[0].bias, 7)
    image = 100 + torch.rand(3, 1, *(20, 24, 8)[:dimensions])
    image[2] = 100.0  # blank
    traced = trace(network.eval(), image[:1])
    program = rewrite(traced, traced.outline(image), torch.float32, image.device)
    assert [type(step).__name__ for step in program.steps.values()][:2] == ["Conv", "InstanceNorm"]
    with torch.inference_mode():
        found = both(network, image)[1]
        raw = network[0](image)
        expected = network.double()(image.double())
        of_torch = network.float()[1:](raw)
    # Image by image: what is rounded on a blank slice has nothing to do with the others.
    error, allowed = ((output - expected).abs().flatten(1).amax(1) for output in (found, of_torch))
    assert (error <= 5 * allowed + 1e-6).all(), (error, allowed)


@pytest.mark.parametrize(
    ("tracked", "dtype", "device"),
    [(True, torch.float32, "cpu"), (False, torch.bfloat16, "cpu"), (False, torch.float32, "cuda")],
)
def test_instance_normalisation_is_left_alone_where_it_is_by_running_statistics_or_not_in_float32_on_a_cpu(
    tracked, dtype, device
):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=tracked), nn.ReLU()).eval()
    image = torch.zeros(2, 1, 8, 8)
    traced = trace(network, image)
    steps = rewrite(traced, traced.outline(image), dtype, torch.device(device)).steps  # needs no GPU: nothing is run
    assert "InstanceNorm" not in {type(step).__name__ for step in steps.values()}


def test_a_rewrite_that_goes_wrong_is_noticed(slices, monkeypatch, caplog):
    torch.manual_seed(0)
    target, source = Ends(nn.BatchNorm2d(16)).eval(), Ends(nn.BatchNorm2d(16)).eval()
    evaluation, layers = Evaluation(slices.split("val"), COMPUTE, 4), inventory(target)

    def wrong(program, *arguments):
        made = rewrite(program, *arguments)
        name = next(n for n, step in made.steps.items() if "stem.weight" in step.tensors)
        made.steps[name] = made.steps[name].replaced("stem.weight", 2 * target.stem.weight.detach())
        return made

    expected = sweep(target, source.state_dict(), layers, evaluation, engine="plain")
    monkeypatch.setattr(module, "rewrite", wrong)
    found = sweep(target, source.state_dict(), layers, evaluation)
    assert "has other outputs; it is swept as it is written" in caplog.text
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert np.abs(a.predicted - b.predicted).max() <= 2


class Standardised(nn.Module):
    """Its kernel is standardised before it is used."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        w = self.conv.weight
        return self.out(F.conv2d(x, (w - w.mean()) / w.std(), self.conv.bias, padding=1).relu())


def test_exact_in_bfloat16_does_not_round_what_is_computed_with_first(slices):
    torch.manual_seed(0)
    target, source = Standardised().eval(), Standardised().eval()
    half = COMPUTE.model_copy(update={"evaluation_precision": "bfloat16"})
    found, expected = (
        sweep(target, source.state_dict(), inventory(target), Evaluation(slices.split("val"), half, 4), engine=engine)
        for engine in ("exact", "plain")
    )
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert np.array_equal(a, b)
