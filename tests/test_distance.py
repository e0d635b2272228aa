"""Distances against their definitions, and BN formulas against a real BN layer."""

import gc
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prrmse.compare.distance import bn_shift, bn_shift_table, relative_rmse, rmse, rmse_table
from prrmse.experiments.bn_shift import bn_shift_all_pairs
from prrmse.experiments.rmse import rmse_all_pairs
from prrmse.nets.arrays import read_arrays
from prrmse.nets.checkpoint import save_checkpoint, write_state
from prrmse.nets.layers import inventory


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
    normalised = F.batch_norm(x, target.running_mean, target.running_var, eps=target.eps)
    statistics = shift(target, source)
    with torch.no_grad():
        getattr(target, attribute).copy_(getattr(source, attribute))
    after = target(x) - target.bias[:, None, None]
    assert per_channel(after / before).mean().item() == pytest.approx(statistics[kind], rel=1e-4)
    # RV: size of the log scale; RW: change of the output in units of the normalised input.
    change = (after / before).log() if kind == "mrv" else (after - before) / normalised
    assert per_channel(change).abs().mean().item() == pytest.approx(statistics[f"{kind}_abs"], rel=1e-4)


def per_channel(values):
    """The one value that all pixels of a channel have, up to rounding."""
    return values.transpose(0, 1).flatten(1).median(dim=1).values.detach()


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
    return bn_shift(*states, "bn", target.eps)


def test_bn_shift_of_itself_is_nothing():
    bn, _ = layers()
    found = shift(bn, bn)
    assert found["mrv"] == found["mrw"] == 1
    assert all(found[k] == 0 for k in found if k not in ("mrv", "mrw"))


# ---- normalisations of other kinds, from checkpoints ----------------------------------------------


def other_norms():
    """Normalisations without affine parameters, without running statistics, and with an eps of their own."""
    network = nn.Sequential(
        nn.BatchNorm2d(6, affine=False, eps=0.7),
        nn.InstanceNorm2d(6, affine=True),
        nn.InstanceNorm2d(6, affine=True, track_running_stats=True, eps=0.2),
        nn.InstanceNorm2d(6),
        nn.GroupNorm(2, 6),
    )
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            value.uniform_(0.5, 2) if "mean" not in name else value.normal_()
    return network.eval()


@pytest.fixture
def shifts(tmp_path):
    torch.manual_seed(0)
    networks = {name: other_norms() for name in ("a-seg", "b-seg")}
    for name, network in networks.items():
        header = {"net": "mine", "model": name, "seed": 0, "layers": [x._asdict() for x in inventory(network)]}
        save_checkpoint(network, tmp_path / name, header)
    return networks, bn_shift_all_pairs([tmp_path / "a-seg"], [tmp_path / "b-seg"]).set_index("module")


def test_a_header_without_eps_means_that_of_torch_and_says_so(tmp_path, caplog):
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(6, eps=0.7), nn.BatchNorm2d(6, eps=0.7))
    for name in ("a-seg", "b-seg"):
        for norm in network:
            norm.running_var.uniform_(0.5, 2)
        header = {"net": "mine", "model": name, "seed": 0, "layers": [x._asdict() for x in inventory(network)]}
        write_state(network.state_dict(), tmp_path / name, header)
    found = bn_shift_all_pairs([tmp_path / "a-seg"], [tmp_path / "b-seg"]).set_index("module")
    assert f"{tmp_path / 'a-seg'}: its header has no eps of 0 and 1 more layers; torch's default, 1e-05" in caplog.text
    variances = [read_arrays(tmp_path / name)[0]["0.running_var"].astype(float) for name in ("a-seg", "b-seg")]
    default = nn.BatchNorm2d(1).eps
    expected = np.sqrt((variances[0] + default) / (variances[1] + default)).mean()
    assert found.loc["0", "mrv"] == pytest.approx(expected, rel=1e-12)


def test_normalisations_without_some_parameters(shifts):
    _, table = shifts
    assert table.index.tolist() == ["0", "2", "1", "4"], "all that have something to swap"
    assert (table.loc["0", ["mrw", "mrb", "mrw_abs", "mrb_abs"]] == [1, 0, 0, 0]).all(), "g = 1, b = 0"
    assert table.loc[["1", "4"], ["mrm", "mrv", "mrm_abs", "mrv_abs"]].isna().all(axis=None), "nothing to swap"
    assert table.loc[["1", "4"], ["mrw", "mrb", "mrw_abs", "mrb_abs"]].notna().all(axis=None)


@pytest.mark.parametrize("module", ["0", "2"])
@pytest.mark.parametrize(("kind", "attribute"), [("mrm", "running_mean"), ("mrv", "running_var")])
def test_shift_of_a_swap_with_the_layers_own_eps(shifts, module, kind, attribute):
    networks, table = shifts
    layer, source = (networks[name].get_submodule(module) for name in ("a-seg", "b-seg"))
    offset = 0 if layer.bias is None else layer.bias[:, None, None]
    x = torch.randn(4, 6, 5, 5)
    before = layer(x) - offset
    with torch.no_grad():
        getattr(layer, attribute).copy_(getattr(source, attribute))
    after = layer(x) - offset
    found = per_channel(after - before if kind == "mrm" else after / before).mean().item()
    assert found == pytest.approx(table.loc[module, kind], rel=1e-3)


def test_a_network_without_normalisations_has_no_rows():
    layers = pd.DataFrame(
        [("W", 1, "c", "c.weight", 2, False)], columns=["kind", "layer", "module", "tensor", "n", "f"]
    )
    table = bn_shift_table({"c.weight": np.ones(2)}, {"c.weight": np.ones(2)}, layers, {})
    assert len(table) == 0
    assert {"layer", "module", "mrm", "mrb_abs"} <= set(table)


def test_rmse_of_all_pairs_holds_one_network_and_seed_at_a_time(tmp_path, monkeypatch):
    paths, truth = [], {}
    for seed in (0, 1, 2):  # interleaved, so that no order of the files can help
        for net in ("a", "b"):
            for model in ("x-seg", "y-seg", "z-seg"):
                conv = nn.Conv2d(1, 2, 1)
                network = nn.Sequential(conv)
                truth[net, model, seed] = conv.weight.detach().clone()
                header = {"net": net, "model": model, "seed": seed, "layers": [x._asdict() for x in inventory(network)]}
                paths.append(tmp_path / f"{net}{model}{seed}")
                save_checkpoint(network, paths[-1], header)
    loaded, most = [], []

    def counting(path):
        arrays, header = read_arrays(path)
        loaded.append(weakref.ref(next(iter(arrays.values()))))
        gc.collect()
        most.append(sum(each() is not None for each in loaded))
        return arrays, header

    monkeypatch.setattr("prrmse.experiments.rmse.read_arrays", counting)
    gc.collect()
    gc.freeze()  # the collections above need not look at what the libraries have made
    try:
        table = rmse_all_pairs(paths)
    finally:
        gc.unfreeze()
    assert max(most) == 3, "the models of one network and seed"
    kernels = table[table["kind"] == "W"]
    assert len(kernels) == 3 * 2 * 3
    for row in kernels.itertuples():
        a, b = (truth[row.net, model, row.seed] for model in (row.model_a, row.model_b))
        assert row.rmse == pytest.approx((a - b).square().mean().sqrt().item(), rel=1e-5)
