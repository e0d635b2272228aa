"""The first-order screen: gradients against finite differences, its bound against losses, what it must not change."""

import copy

import numpy as np
import pytest
import torch
from conftest import COMPUTE
from scipy import stats
from torch import nn
from torch.nn import functional as F

from prrmse.compare.first_order import loss_gradients, screen_table
from prrmse.data.slices import IGNORE, Slices
from prrmse.engine.sweep import sweep
from prrmse.errors import InputError
from prrmse.learning.dice import dice
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.nets.layers import inventory


class Normalised(nn.Module):
    """Every normalisation that has tensors, one convolution under two names, and one head that is not run."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.batch = nn.BatchNorm2d(4)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.instance = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        self.each = nn.InstanceNorm2d(4, affine=True)
        self.group = nn.GroupNorm(2, 4)
        self.alias = self.first
        self.unused = nn.Conv2d(4, 4, 1)
        self.out = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.plain(F.silu(self.batch(self.first(x))))
        x = F.silu(self.each(F.silu(self.instance(x))))
        return self.out(self.group(x))


def disturbed(network, seed, scale=0.3):
    """A copy with noise added to every tensor; variances stay positive."""
    draws = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(network)
    for name, tensor in other.state_dict().items():
        if tensor.is_floating_point():
            noise = scale * torch.randn(tensor.shape, generator=draws)
            tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return other


@pytest.fixture(scope="module")
def normalised():
    torch.manual_seed(0)
    return disturbed(Normalised(), 0).eval()


def loss_of(network, evaluation):
    """Cross-entropy for each pixel of foreground, in double precision, by torch alone."""
    label = evaluation.whole.label
    with torch.no_grad():
        output = copy.deepcopy(network).double()(evaluation.whole.image.double())
        total = F.cross_entropy(output, label, ignore_index=IGNORE, reduction="sum")
        return float(total / ((label > 0) & (label < IGNORE)).sum())


def test_gradients_are_those_of_finite_differences(normalised, slices):
    evaluation = Evaluation(slices, COMPUTE, 4)
    evaluation.whole.label[0, :9] = IGNORE
    layers = inventory(normalised)
    assert {layer.kind for layer in layers} == {"W", "B", "RM", "RV", "RW", "RB"}
    assert sum(layer.kind == "RV" for layer in layers) == 3
    gradients = loss_gradients(normalised, evaluation, [layer.tensor for layer in layers])
    doubled = copy.deepcopy(normalised).double()
    for layer in (layer for layer in layers if "unused" not in layer.tensor):
        direction = torch.randn(gradients[layer.tensor].shape, generator=torch.Generator().manual_seed(1)).double()
        along = []
        for step in (1e-5, -1e-5):
            moved = copy.deepcopy(doubled)
            moved.state_dict()[layer.tensor].add_(step * direction)
            along.append(loss_of(moved, evaluation))
        expected = (along[0] - along[1]) / 2e-5
        assert float((gradients[layer.tensor] * direction).sum()) == pytest.approx(expected, rel=1e-3, abs=1e-7), layer
    assert gradients["first.weight"].abs().max() > 0


def test_a_small_step_of_one_element_moves_the_loss_as_told_and_of_many_by_no_more(normalised, slices):
    evaluation = Evaluation(slices, COMPUTE, 4)
    state, before = normalised.state_dict(), loss_of(normalised, evaluation)
    layers = [layer for layer in inventory(normalised) if "unused" not in layer.tensor]
    one, many = ({name: tensor.clone() for name, tensor in state.items()} for _ in range(2))
    for layer in layers:
        one[layer.tensor].view(-1)[0] += 1e-3
        many[layer.tensor] += 1e-3 * torch.randn(many[layer.tensor].shape, generator=torch.Generator().manual_seed(2))
    told = screen_table(normalised, {"one": one, "many": many}, evaluation, layers).set_index(
        ["source", "kind", "layer"]
    )
    for layer in layers:
        for name, source in (("one", one), ("many", many)):
            moved = copy.deepcopy(normalised)
            moved.state_dict()[layer.tensor].copy_(source[layer.tensor])
            change = abs(loss_of(moved, evaluation) - before)
            bound = told.loc[(name, layer.kind, layer.layer), "first_order"]
            assert change <= bound * 1.05 + 1e-7, (name, layer)
            if name == "one":
                assert change == pytest.approx(bound, rel=0.05, abs=1e-7), layer


def test_it_is_the_same_within_inference_mode_and_by_batches_and_changes_nothing(normalised, slices):
    evaluation, layers = Evaluation(slices, COMPUTE, 4), inventory(normalised)
    tensors = [layer.tensor for layer in layers]
    before = copy.deepcopy(normalised.state_dict())
    wanted = [p.requires_grad for p in normalised.parameters()]
    alone = Evaluation(slices, COMPUTE.model_copy(update={"evaluation_batch_size": 1}), 4)
    with torch.inference_mode():
        inside = loss_gradients(normalised, Evaluation(slices, COMPUTE, 4), tensors)
    for found in (loss_gradients(normalised, evaluation, tensors), loss_gradients(normalised, alone, tensors)):
        assert all(torch.allclose(found[name], inside[name], rtol=1e-3, atol=1e-8, equal_nan=True) for name in tensors)
    assert all(torch.equal(value, before[name]) for name, value in normalised.state_dict().items())
    assert [p.requires_grad for p in normalised.parameters()] == wanted


def test_it_puts_the_pairs_of_a_trained_network_in_the_order_of_their_drops(trained):
    network, _, validation = trained
    # Noise of one relative size in every tensor: a distance has nothing to tell them apart by.
    source = {
        name: tensor + tensor.abs().mean() * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i))
        for i, (name, tensor) in enumerate(network.state_dict().items())
        if tensor.is_floating_point()
    }
    source |= {name: tensor.abs() for name, tensor in source.items() if name.endswith("running_var")}
    layers = reaching(network, validation.whole.image[:1])
    own, swapped = sweep(network, source, layers, validation)
    drops = [float(np.nanmean(dice(own)[:, 1:] - dice(counts)[:, 1:])) for counts in swapped]
    table = screen_table(network, {"noise": source}, validation, layers)
    told, distance = (stats.spearmanr(table[column], drops) for column in ("first_order", "rmse_relative"))
    assert told.pvalue < 1e-6 and told.statistic > distance.statistic + 0.3


def test_background_that_is_told_apart_does_not_count(slices):
    network = nn.Sequential(nn.Conv2d(1, 4, 1))
    network.load_state_dict({"0.weight": torch.tensor([-5.0, 1, 2, 3]).view(4, 1, 1, 1), "0.bias": -torch.arange(4.0)})
    around = ((0, 0), (32, 32), (32, 32))
    image, label = np.pad(slices.image, around, constant_values=-20), np.pad(slices.label, around)
    wide = Slices(image, label, slices.index, slices.meta)
    small, large = (loss_gradients(network, Evaluation(s, COMPUTE, 4), ["0.weight", "0.bias"]) for s in (slices, wide))
    assert all(torch.allclose(small[name], large[name], rtol=1e-4) for name in small)
    assert min(float(gradient.abs().min()) for gradient in small.values()) > 0.01


def test_slices_without_foreground_are_one_line(normalised, slices):
    empty = Slices(slices.image, np.zeros_like(slices.label), slices.index, slices.meta)
    with pytest.raises(InputError, match="no pixel of these slices is labelled as foreground"):
        loss_gradients(normalised, Evaluation(empty, COMPUTE, 4), ["out.weight"])


def test_what_gets_no_gradient_has_no_estimate(slices, caplog):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Conv2d(1, 4, 3, padding=1)
            self.unused, self.out = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            with torch.no_grad():
                x = self.encoder(x)
            return {"out": self.out(x), "aux": x}

    torch.manual_seed(0)
    network, source = Frozen(), disturbed(Frozen(), 1)
    evaluation = Evaluation(slices, COMPUTE, 4)
    table = screen_table(network, {"a": source.state_dict()}, evaluation, inventory(network)).set_index(
        ["module", "kind"]
    )
    assert table.loc[["encoder", "unused"], "first_order"].isna().all()
    assert (table.loc["out", "first_order"] > 0).all()
    assert "4 tensors get no gradient, so have no estimate, first encoder.weight" in caplog.text
    assert table["rmse"].notna().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_sources_of_other_dtypes_and_evaluations_in_bfloat16(normalised, slices, dtype):
    layers = [layer for layer in inventory(normalised) if "unused" not in layer.tensor]
    source = disturbed(normalised, 3).state_dict()
    other = {name: tensor.to(dtype) for name, tensor in source.items()}
    compute = COMPUTE.model_copy(update={"evaluation_precision": "bfloat16"})
    exact, cast = (screen_table(normalised, {"a": s}, Evaluation(slices, COMPUTE, 4), layers) for s in (source, other))
    assert np.allclose(exact["first_order"], cast["first_order"], rtol=0.02, atol=1e-4)
    rough = screen_table(normalised, {"a": source}, Evaluation(slices, compute, 4), layers)
    assert stats.spearmanr(exact["first_order"], rough["first_order"]).statistic > 0.99
    broken = {**source, "out.weight": source["out.weight"] * torch.nan}
    table = screen_table(normalised, {"a": broken}, Evaluation(slices, COMPUTE, 4), layers)
    assert table["first_order"].isna().sum() == 1


def test_a_source_may_lack_pairs(normalised, slices):
    layers = [layer for layer in inventory(normalised) if "unused" not in layer.tensor]
    lacking = {name: tensor for name, tensor in normalised.state_dict().items() if not name.startswith("batch")}
    table = screen_table(normalised, {"a": lacking}, Evaluation(slices, COMPUTE, 4), layers)
    assert set(table["module"]) == {layer.module for layer in layers} - {"batch"}
    assert (table[["first_order", "rmse"]] == 0).all(axis=None), "equal tensors"


def test_a_loss_that_is_not_finite_and_a_network_without_gradients_are_one_line(normalised, slices):
    class Rounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Conv2d(1, 4, 1)

        def forward(self, x):
            return torch.from_numpy(self.out(x).detach().numpy())

    broken = copy.deepcopy(normalised)
    broken.state_dict()["out.bias"].fill_(torch.nan)
    evaluation = Evaluation(slices, COMPUTE, 4)
    with pytest.raises(InputError, match="Normalised: the target's loss on these slices is not finite"):
        loss_gradients(broken, evaluation, ["out.weight"])
    with pytest.raises(InputError, match="Rounded: cannot be differentiated"):
        loss_gradients(Rounded(), evaluation, ["out.weight"])
