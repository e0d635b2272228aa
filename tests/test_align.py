"""Alignment: a permuted copy computes the same, and matching undoes the permutation."""

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, initialise
from torch import nn
from torch.nn import functional as F

from prrmse.compare.align import channels_of, match, permute, random_order
from prrmse.compare.distance import rmse


class Own(nn.Module):
    """Concatenated and added branches, grouped and transposed convolutions, a PReLU that nobody knows."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1, bias=False)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.join, self.joined = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(12)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.grouped = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.odd, self.out = nn.PReLU(6), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        x = self.norm(self.stem(x)).relu()
        y = self.depthwise(self.left(x) + self.right(x))
        z = self.join(F.max_pool2d(self.joined(torch.cat([x, y], dim=1)), 2))
        return self.out(self.odd(self.grouped(self.up(z))))


class Functional(nn.Module):
    """Convolutions and normalisations as functions of what modules hold, as timm writes them; a clipped ReLU."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.mix = nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 8, 1)
        self.clip, self.out = nn.ReLU6(), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.stem.weight, None, 1, 0)
        n = self.norm
        x = self.clip(F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, n.eps))
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), self.depthwise.weight, self.depthwise.bias, groups=6)
        return self.out(F.relu6(self.mix(x)))


class Shared(nn.Module):
    """A kernel and a normalisation that are used twice, as modules and as functions."""

    def __init__(self):
        super().__init__()
        self.stem, self.again, self.norm = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.out = nn.Conv2d(6, 3, 1)

    def forward(self, x):
        n, x = self.norm, self.again(self.norm(self.stem(x)).relu())
        x = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, n.eps).relu()
        return self.out(F.conv2d(x, self.again.weight, self.again.bias).relu())


class Doubled(nn.Module):
    """The same value twice in a concatenation, whose list is named."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix, self.out = nn.Conv2d(1, 6, 3), nn.Conv2d(12, 5, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.mix(torch.cat([x, x], 1)).relu()
        return self.out(torch.cat(tensors=[y, x, y], dim=1))


OWN = {"own": Own, "functional": Functional, "shared": Shared, "doubled": Doubled}


def network(name, seed=0):
    if name in OWN:
        torch.manual_seed(seed)
        made = OWN[name]()
    else:
        made = initialise(name, ARGUMENTS[name], "independent", "none", "a-seg", seed)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.5, 2)):
                tensor.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return made.eval()


IMAGE = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["unet", "pspnet", *OWN])
def test_a_permuted_network_computes_the_same_and_is_aligned_back(name):
    target = network(name)
    channels = channels_of(target, IMAGE)
    assert len(channels.size) >= {"unet": 18, "pspnet": 15, "own": 2, "functional": 2, "shared": 1, "doubled": 2}[name]
    state = {k: v.clone() for k, v in target.state_dict().items()}
    twin = permute(state, channels, random_order(channels, 1))
    kernels = [k for k, v in state.items() if v.ndim == 4 and not torch.equal(v, twin[k])]
    assert len(kernels) > 0.6 * len([k for k, v in state.items() if v.ndim == 4])
    other = network(name, 5)
    other.load_state_dict(twin)
    with torch.no_grad():
        expected = target(IMAGE)
        torch.testing.assert_close(other(IMAGE), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))

    found = permute(twin, channels, match(state, twin, channels, seed=0))
    for key in kernels:
        assert rmse(state[key].numpy(), twin[key].numpy()) > 0.01, "far apart before"
        assert rmse(state[key].numpy(), found[key].numpy()) == 0, key
    assert all(torch.equal(v, found[k]) for k, v in state.items())


@pytest.mark.parametrize("name", ["unet", "pspnet"])
def test_an_aligned_stranger_keeps_its_function_and_comes_closer(name):
    target, stranger = network(name), network(name, 3)
    channels = channels_of(target, IMAGE)
    own, other = target.state_dict(), {k: v.clone() for k, v in stranger.state_dict().items()}
    aligned = permute(other, channels, match(own, other, channels, seed=0))
    with torch.no_grad():
        before = stranger(IMAGE)
        stranger.load_state_dict(aligned)
        torch.testing.assert_close(stranger(IMAGE), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))
    distances = [
        [rmse(own[k].numpy(), state[k].numpy()) for k, v in own.items() if v.ndim == 4] for state in (other, aligned)
    ]
    assert np.mean(distances[1]) < np.mean(distances[0])


def test_inputs_outputs_and_grouped_channels_keep_their_order():
    channels = channels_of(network("own"), IMAGE)
    # stem, left, right and depthwise meet in one sum: norm's channels are stem's, the sum's are left's.
    assert sorted(channels.size.values()) == [6, 6, 8]
    assert {
        a.tensor for a in channels.axes if dict(a.layout).keys() & {"out", "grouped", "up"} & channels.size.keys()
    } == set()
