"""Convolutions with packed weights and by Winograd's transformations give what torch's own gives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prrmse.engine import onednn
from prrmse.engine.onednn import Activation, Convolution
from prrmse.engine.resizing import Axis, EnlargedConvolution
from prrmse.engine.winograd import transformed, winograd
from prrmse.learning.separable import matrices

# Size, padding, dilation: one block and several, sizes that tiles divide or not, axes that differ, no padding, much.
CUTS = [
    ((16, 16), (4, 4), (4, 4)),
    ((16, 16), (1, 1), (1, 1)),
    ((12, 12), (4, 4), (4, 4)),
    ((13, 7), (2, 2), (2, 2)),
    ((5, 11), (0, 1), (1, 3)),
    ((4, 9), (3, 0), (2, 1)),
    ((3, 3), (0, 0), (1, 1)),
]


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("size", "padding", "dilation"), CUTS)
def test_winograd_is_a_convolution(size, padding, dilation, bias, layout):
    x = drawn(2, 6, *size).contiguous(memory_format=layout)
    weight, shift = drawn(5, 6, 3, 3), drawn(5) if bias else None
    cut = winograd(size, padding, dilation)
    found = cut.run(x, transformed(weight), shift)
    exact = F.conv2d(x.double(), weight.double(), None if shift is None else shift.double(), 1, padding, dilation)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=5e-5)


def test_winograd_rounds_little_more_than_a_convolution():
    x = drawn(4, 256, 16, 16).contiguous(memory_format=torch.channels_last)
    weight = drawn(256, 256, 3, 3) / 48
    cut = winograd((16, 16), (1, 1), (1, 1))
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    ways = cut.run(x, transformed(weight), None), F.conv2d(x, weight, padding=1)
    winograds, directs = (float((way - exact).square().mean().sqrt()) for way in ways)
    assert winograds < 5 * directs


@pytest.mark.parametrize(
    ("activation", "module"),
    [
        (None, nn.Identity()),
        (Activation("relu"), nn.ReLU()),
        (Activation("hardtanh", (0.0, 6.0)), nn.ReLU6()),
        (Activation("leaky_relu", (0.2,)), nn.LeakyReLU(0.2)),
        (Activation("swish"), nn.SiLU()),
        (Activation("hardswish"), nn.Hardswish()),
    ],
    ids=str,
)
@pytest.mark.parametrize("missing", [True, False])
def test_a_packed_kernel_changes_nothing(activation, module, missing, monkeypatch):
    if missing:
        monkeypatch.setattr(onednn, "PACK", dict.fromkeys(onednn.PACK))
    weight, bias = drawn(32, 16, 3, 3), drawn(32)
    made = Convolution(weight, bias, (2, 2), (1, 1), (1, 1), 1)
    for slices in (3, 1):  # the second with the weights that were packed for the first
        x = drawn(slices, 16, 20, 20).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(made(x, activation), module(F.conv2d(x, weight, bias, 2, 1)))


@pytest.mark.parametrize("way", ["packed", "as it is", "winograd", "3d"])
@pytest.mark.parametrize("activation", [None, Activation("relu"), Activation("leaky_relu", (0.2,))], ids=str)
def test_another_tensor_is_added_before_the_activation(activation, way, monkeypatch):
    if way == "as it is":
        monkeypatch.setattr(onednn, "PACK", dict.fromkeys(onednn.PACK))
    axes = 3 if way == "3d" else 2
    weight, bias, padding = drawn(8, 6, *[3] * axes), drawn(8), (1,) * axes
    cut = winograd((12, 10), (1, 1), (1, 1)) if way == "winograd" else None
    made = Convolution(weight, bias, (1,) * axes, padding, (1,) * axes, winograd=cut)
    x, added = drawn(2, 6, *[4] * (axes - 2), 12, 10), drawn(2, 8, *[4] * (axes - 2), 12, 10)
    expected = {2: F.conv2d, 3: F.conv3d}[axes](x, weight, bias, 1, padding) + added
    expected = activation(expected, inplace=False) if activation else expected
    for layout in (torch.contiguous_format, torch.channels_last if axes == 2 else torch.channels_last_3d):
        given, before = added.contiguous(memory_format=layout), added.clone()
        torch.testing.assert_close(made(x, activation, given), expected, rtol=1e-5, atol=5e-5)
        assert torch.equal(given, before), "it belongs to others"
    assert (made._prepared is weight) is (way == "as it is")


def test_winograd_is_the_same_in_parts(monkeypatch):
    """Some images, and some rows of tiles of one image."""
    x, weight = drawn(5, 6, 22, 9), drawn(7, 6, 3, 3)
    cut = winograd((22, 9), (2, 1), (2, 1))
    whole = cut.run(x, transformed(weight), drawn(7))
    shares = set()
    for size in (1, 20000, 80000):
        monkeypatch.setattr("prrmse.engine.winograd.PART_BYTES", size)
        shares.add(len(list(cut._parts(5, transformed(weight)))))
        torch.testing.assert_close(cut.run(x, transformed(weight), drawn(7)), whole, rtol=1e-5, atol=1e-5)
    assert shares == {15, 5, 2}, "blocks of rows, images, several images"


def test_a_packed_kernel_of_3d_changes_nothing():
    weight, bias = drawn(8, 4, 3, 3, 3), drawn(8)
    made = Convolution(weight, bias, (2, 1, 1), (1, 1, 1), (1, 1, 1), 1)
    for slices in (3, 1):
        x = drawn(slices, 4, 6, 10, 12)
        expected = F.leaky_relu(F.conv3d(x, weight, bias, (2, 1, 1), 1), 0.1)
        torch.testing.assert_close(made(x, Activation("leaky_relu", (0.1,))), expected)
    assert made._prepared.is_mkldnn


def enlarging(**how):
    def enlarge(x):
        return F.interpolate(x, **how)

    return enlarge


# How, and for the first axis: the filter's begin and length, copies of the pixels at its ends.
ENLARGED = [
    (enlarging(scale_factor=2, mode="bilinear"), (-1, 4, 1)),
    (enlarging(scale_factor=2, mode="nearest"), (0, 2, 0)),
    (enlarging(scale_factor=3, mode="bilinear"), (-1, 5, 1)),
    (enlarging(scale_factor=4, mode="nearest"), (0, 4, 0)),
    (enlarging(scale_factor=(2, 4), mode="bilinear"), (-1, 4, 1)),
    (enlarging(scale_factor=(4, 2), mode="bilinear"), (-2, 8, 1)),
    (enlarging(scale_factor=2, mode="bicubic"), (-3, 8, 2)),
]


def enlarged(way, size, weight):
    rows, columns = map(Axis.of, matrices(way, *size))
    return EnlargedConvolution(weight, rows=rows, columns=columns)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(6, 7), (16, 5)])
@pytest.mark.parametrize(("way", "filtered"), ENLARGED)
def test_a_convolution_of_an_enlarged_map(way, filtered, size, layout):
    x, weight, scale, bias = drawn(3, 7, *size).contiguous(memory_format=layout), drawn(5, 7, 3, 3), drawn(5), drawn(5)
    made = enlarged(way, size, weight)
    assert (made.rows.first, len(made.rows.taps), made.rows.copies) == (*filtered[:2], (filtered[2],) * 2)
    exact = F.conv2d(way(x.double()), weight.double(), padding=1)
    torch.testing.assert_close(made(x).double(), exact, rtol=0, atol=5e-5)
    added = drawn(*exact.shape).contiguous(memory_format=layout)
    given, then = added.clone(), made.then(scale, bias)
    expected = F.relu(exact * scale.view(-1, 1, 1) + bias.view(-1, 1, 1) + added)
    torch.testing.assert_close(then(x, Activation("relu"), added).double(), expected.double(), rtol=0, atol=1e-4)
    assert torch.equal(added, given), "it belongs to others"
    assert then._prepared is None, "it shares the weight"
    other = drawn(7, 5, 3, 3).transpose(0, 1).contiguous()
    swapped = made.of(other, swapped=True)
    torch.testing.assert_close(swapped(x), F.conv2d(way(x), other, padding=1), rtol=0, atol=5e-5)
    assert swapped._prepared is None, "it is used once"


@pytest.mark.parametrize("way", [way for way, _ in ENLARGED[:2]])
def test_a_convolution_of_an_enlarged_map_rounds_little_more(way):
    x = drawn(4, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    weight = drawn(64, 64, 3, 3) / 24
    exact = F.conv2d(way(x.double()), weight.double(), padding=1)
    ways = enlarged(way, (16, 16), weight)(x), F.conv2d(way(x), weight, padding=1)
    edge = torch.ones(exact.shape[-2:], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    for part in (edge, ~edge):
        mine, plain = (float((found - exact)[:, :, part].square().mean().sqrt()) for found in ways)
        assert mine < 2 * plain


@pytest.mark.parametrize(
    ("way", "size"),
    [
        (enlarging(scale_factor=2, mode="bilinear", align_corners=True), (8, 8)),
        (enlarging(scale_factor=2.5, mode="bilinear"), (8, 8)),
        (enlarging(size=(15, 8), mode="nearest"), (8, 8)),
        (enlarging(scale_factor=0.5, mode="bilinear"), (8, 8)),
        (enlarging(scale_factor=2, mode="bilinear"), (2, 8)),  # too small to tell a filter from its copies
        (lambda x: F.interpolate(x, scale_factor=2).flip(2), (8, 8)),
    ],
)
def test_what_is_not_one_filter_is_left_alone(way, size):
    assert Axis.of(matrices(way, *size)[0]) is None
