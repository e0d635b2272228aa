"""The sweep engine answers exactly what the plain way answers."""

import copy

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS
from torch import nn

from prrmse.evaluate import Evaluation
from prrmse.layers import inventory, swap
from prrmse.nets import initialise
from prrmse.sweep import sweep
from prrmse.train import train


class Branches(nn.Module):
    """A user's network: a skip, a sum of two branches, a module used by both ends of a concatenation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.right = nn.Conv2d(6, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.left(x) + self.right(x)
        return self.out(self.norm(torch.cat([x, y], 1)))


def networks(name, slices):
    """Target and source, trained a little on different tasks, so that swaps matter."""
    if name == "branches":
        torch.manual_seed(0)
        pair = Branches(), Branches()
    else:
        pair = tuple(initialise(name, ARGUMENTS[name], "independent", "none", m, 0) for m in ("a-seg", "b-seg"))
    settings = {**SETTINGS, "steps": 12, "learning_rate": 0.01}
    for network, task in zip(pair, ("seg", "auto"), strict=True):
        train(network, slices.split("train"), task, settings, 0, COMPUTE)
    return pair


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["unet", "pspnet", "branches"])
def test_sweep_counts_are_bit_equal_to_the_plain_way(name, precision, slices):
    target, source = networks(name, slices)
    evaluation = Evaluation(slices.split("val"), {**COMPUTE, "precision": precision}, 4)
    layers = inventory(target)[:: 1 if name == "branches" else 9]
    before = {k: v.clone() for k, v in target.state_dict().items()}
    baseline, swapped = sweep(target, source.state_dict(), layers, evaluation)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items()), "the target was changed"
    assert np.array_equal(baseline.both, evaluation.counts(evaluation.place(target)).both)
    changed = 0
    for layer, counts in zip(layers, swapped, strict=True):
        plain = copy.deepcopy(target)
        plain.load_state_dict(swap(before, source.state_dict(), [layer]))
        expected = evaluation.counts(evaluation.place(plain))
        assert all(np.array_equal(a, b) for a, b in zip(counts, expected, strict=True)), layer
        changed += not np.array_equal(counts.predicted, baseline.predicted)
    assert changed > len(layers) // 3, "hardly any swap changed anything: the test shows nothing"


@pytest.mark.parametrize("name", ["unet", "pspnet"])
def test_self_swap_reproduces_the_baseline(name, slices):
    target, _ = networks(name, slices)
    evaluation = Evaluation(slices.split("val"), COMPUTE, 4)
    twin = {k: v.clone() for k, v in target.state_dict().items()}
    baseline, swapped = sweep(target, twin, inventory(target), evaluation)
    for counts in swapped:
        assert all(np.array_equal(a, b) for a, b in zip(counts, baseline, strict=True))


def test_sweep_refuses_another_shape_before_it_runs(slices):
    small = initialise("unet", {"width": 4}, "shared", "none", "a-seg", 0)
    large = initialise("unet", {"width": 8}, "shared", "none", "a-seg", 0)
    with pytest.raises(ValueError, match=r"inc\.0\.weight: shape"):
        sweep(small, large.state_dict(), inventory(small), Evaluation(slices.split("val"), COMPUTE, 4))
