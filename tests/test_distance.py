"""Distances against their definitions, and BN formulas against a real BN layer."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from prrmse.compare.distance import bn_shift, relative_rmse, rmse, rmse_table


def test_rmse_is_a_distance(rng=np.random.default_rng(0)):
    a, b = rng.standard_normal((2, 5, 3, 3, 3)).astype(np.float32)
    assert rmse(a, a) == 0
    assert rmse(a, b) == rmse(b, a) == pytest.approx(np.sqrt(((a - b) ** 2).mean()), rel=1e-6)


def test_relative_rmse_is_one_for_unrelated_and_ignores_scale():
    a, b = np.random.default_rng(0).standard_normal((2, 200_000))
    assert relative_rmse(a, b) == pytest.approx(1, abs=0.01)
    assert relative_rmse(10 * a, 10 * b) == pytest.approx(relative_rmse(a, b))
    assert relative_rmse(a, a) == 0
    assert np.isnan(relative_rmse(0 * a, 0 * a))


def test_rmse_table_takes_kernels_and_biases_only():
    layers = pd.DataFrame(
        [("W", 1, "c", "c.weight", 2, False), ("RM", 1, "b", "b.running_mean", 2, False)],
        columns=["kind", "layer", "module", "tensor", "scalars", "final"],
    )
    table = rmse_table({"c.weight": np.zeros(2)}, {"c.weight": np.array([3.0, 4.0])}, layers)
    assert table["kind"].tolist() == ["W"]
    assert table["rmse"].item() == pytest.approx(np.sqrt(12.5))


@pytest.mark.parametrize(("kind", "attribute"), [("mrm", "running_mean"), ("mrb", "bias")])
def test_shifts_are_what_a_bn_layer_does(kind, attribute):
    target, source = layers()
    x = torch.randn(4, 6, 5, 5)
    before = target(x)
    statistics = shift(target, source)
    with torch.no_grad():
        getattr(target, attribute).copy_(getattr(source, attribute))
    moved = (target(x) - before).mean((0, 2, 3)).detach()
    assert moved.mean().item() == pytest.approx(statistics[kind], abs=1e-5)
    assert moved.abs().mean().item() == pytest.approx(statistics[f"{kind}_abs"], abs=1e-5)


@pytest.mark.parametrize(("kind", "attribute"), [("mrv", "running_var"), ("mrw", "weight")])
def test_scales_are_what_a_bn_layer_does(kind, attribute):
    target, source = layers()
    x = torch.randn(4, 6, 5, 5)
    before = target(x) - target.bias[:, None, None]
    statistics = shift(target, source)
    with torch.no_grad():
        getattr(target, attribute).copy_(getattr(source, attribute))
    after = target(x) - target.bias[:, None, None]
    scale = (after / before).median(dim=0).values.flatten(1).median(dim=1).values.detach()
    assert scale.mean().item() == pytest.approx(statistics[kind], rel=1e-4)


def layers():
    torch.manual_seed(0)
    made = []
    for _ in range(2):
        bn = nn.BatchNorm2d(6).eval()
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.5, 2)
        nn.init.uniform_(bn.weight, 0.5, 2)
        nn.init.normal_(bn.bias)
        made.append(bn)
    return made


def shift(target, source):
    states = [{f"bn.{k}": v.numpy() for k, v in bn.state_dict().items()} for bn in (target, source)]
    return bn_shift(*states, "bn")


def test_bn_shift_of_itself_is_nothing():
    bn, _ = layers()
    found = shift(bn, bn)
    assert found["mrv"] == found["mrw"] == 1
    assert all(found[k] == 0 for k in found if k not in ("mrv", "mrw"))
