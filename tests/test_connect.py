"""From target to source in steps, and how much is reused at once: planted truths, and the definitions written out."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from prrmse.compare.align import channels_of, permute, random_order
from prrmse.engine.sweep import sweep_changes
from prrmse.engine.table import dice_by_change
from prrmse.experiments.connect import agreement_table, sources, steps_to
from prrmse.experiments.together import Bearing, blind_orders, greedy
from prrmse.learning.freeze import batch_norms
from prrmse.learning.reach import reaching
from prrmse.settings import Verdict
from prrmse.tables.connect import connect_effects, connect_table, together_effects

TIGHT = Verdict(tolerance=0.02, resamples=200)


@pytest.fixture(scope="module")
def twin(trained):
    network, _, validation = trained
    channels = channels_of(network, validation.whole.image[:1])
    return permute(network.state_dict(), channels, random_order(channels, 1))


def body(network, evaluation):
    return [layer for layer in reaching(network, evaluation.whole.image[:1]) if not layer.final]


def as_tables(trained, source):
    """Tables of `connect_table` and of linear connectivity, of one target and source."""
    network, training, validation = trained
    named = list(steps_to(network, source, body(network, validation), training))
    counts = sweep_changes(network, [change for _, change in named], validation)
    table = dice_by_change(*validation.rebased(network, *counts), [name for name, _ in named], validation)
    ids = {"net": "n", "target": "t", "source": "s", "aligned": False}
    agreements = agreement_table(network, source, body(network, validation), validation)
    return connect_table(table[table["class"] == "mean"].assign(**ids)), agreements.assign(**ids)


def parts_of(connected):
    """The whole network by whether statistics are re-estimated, and the kernels."""
    whole = {line["reestimated"]: line for line in connected[connected["layer"] == 0].to_dict("records")}
    return whole, connected[connected["layer"] > 0]


def test_nothing_lies_between_a_network_and_itself(trained):
    own = trained[0].state_dict()
    connected, found = as_tables(trained, own)
    whole, kernels = parts_of(connected)
    numbers = [column for column in kernels if column.startswith("drop") or column == "barrier"]
    assert (kernels[numbers] == 0).all(axis=None)
    assert {whole[False][column] for column in numbers} == {0}
    assert whole[True]["barrier"] == pytest.approx(0, abs=1e-9), "of statistics that are re-estimated at every step"
    assert np.allclose(found[["llfc", "ends"]], 1, atol=1e-6)


def test_a_permuted_copy_is_far_off_until_it_is_aligned(trained, twin):
    network, _, validation = trained
    (connected, before), (connected_again, after) = (
        as_tables(trained, view) for view in sources(network, twin, validation, 0).values()
    )
    assert before["llfc"].mean() < 0.8
    assert before["ends"].mean() < 0.7
    assert before["llfc"][0] == pytest.approx(1, abs=1e-5), "a convolution of the image is linear in its kernel"
    assert np.allclose(after[["llfc", "ends"]], 1, atol=1e-6)
    (raw, _), (aligned, kernels) = parts_of(connected), parts_of(connected_again)
    assert raw[False]["barrier"] > 0.1
    assert raw[False]["drop_100"] > 0.2, "the target's last convolution reads channels in another order"
    assert aligned[False]["barrier"] == aligned[False]["drop_50"] == aligned[False]["drop_100"] == 0
    assert (kernels["drop_100"] == 0).all()


@pytest.mark.parametrize("trained", ["unet"], indirect=True)
def test_estimating_again_mends_what_statistics_alone_have_lost(trained):
    damaged = copy.deepcopy(trained[0])
    for norm in batch_norms(damaged):
        norm.running_mean += 2 * norm.running_var.sqrt()
        norm.running_var *= 16
    tables = as_tables(trained, damaged.state_dict())
    whole, _ = parts_of(tables[0])
    effects = connect_effects(*tables, TIGHT).set_index("quantity")["value"]
    assert whole[False]["drop_100"] > 0.3
    assert whole[True]["drop_100"] == pytest.approx(whole[True]["drop_0"], abs=1e-9), "kernels are the target's own"
    assert effects["share of that which re-estimation mends"] > 0.9
    assert effects["share of that which re-estimation mends"] == pytest.approx(
        1 - whole[True]["drop_100"] / whole[False]["drop_100"]
    )


@pytest.mark.parametrize("trained", ["unet"], indirect=True)
def test_a_barrier_and_a_connectivity_are_what_their_definitions_say(trained):
    """Ten lines of plain torch for each."""
    network, _, validation = trained
    stranger = copy.deepcopy(network)
    draws = torch.Generator().manual_seed(3)
    for tensor in stranger.parameters():
        tensor.data += 0.6 * tensor.std() * torch.randn(tensor.shape, generator=draws) if tensor.numel() > 1 else 0
    image, label = validation.whole.image, validation.whole.label

    def dice_of(net):
        with torch.no_grad():
            said = net.eval()(image).argmax(1)
        by_patient = []
        for patient in range(len(validation.patients)):
            rows = validation.whole.patient == patient
            a, b = said[rows], label[rows]
            both = [2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum()) for c in (1, 2, 3)]
            by_patient.append(np.nanmean(both))
        return np.mean(by_patient)

    def mixed(fraction, names):
        net = copy.deepcopy(network)
        own, other = net.state_dict(), stranger.state_dict()
        net.load_state_dict(own | {n: (1 - fraction) * own[n] + fraction * other[n] for n in names})
        return net

    connected, agreements = as_tables(trained, stranger.state_dict())
    _, kernels = parts_of(connected)
    row = kernels.loc[kernels["barrier"].idxmax()]
    at = {f: dice_of(mixed(f, [f"{row['module']}.weight"])) for f in (0, 0.25, 0.5, 0.75, 1)}
    expected = max((1 - f) * at[0] + f * at[1] - at[f] for f in at)
    assert row["barrier"] == pytest.approx(expected, abs=1e-4)
    assert row["drop_100"] == pytest.approx(at[0] - at[1], abs=1e-4)

    module = agreements["module"].iloc[len(agreements) // 2]
    made = []
    floating = [name for name, tensor in network.state_dict().items() if tensor.is_floating_point()]
    for net in (network, stranger, mixed(0.5, floating)):
        net.get_submodule(module).register_forward_hook(lambda *call: made.append(call[-1]))
        with torch.no_grad():
            net.eval()(image)
        net.get_submodule(module)._forward_hooks.clear()
    a, b, half = (values.movedim(1, -1).flatten(0, -2) for values in made)
    found = agreements.set_index("module").loc[module]
    assert found["llfc"] == pytest.approx(float(F.cosine_similarity(half, (a + b) / 2, dim=-1).mean()), abs=1e-4)
    assert found["ends"] == pytest.approx(float(F.cosine_similarity(a, b, dim=-1).mean()), abs=1e-4)


@pytest.mark.parametrize("trained", ["unet"], indirect=True)
def test_the_greedy_list_is_exactly_what_is_harmless(trained):
    """The source is the target itself but for noise in some kernels and normalisations, where it does harm."""
    network, _, validation = trained
    own, layers = network.state_dict(), body(network, validation)
    draws = torch.Generator().manual_seed(1)
    noisy = {
        layer.tensor: 30 * own[layer.tensor].abs().max() * torch.randn(own[layer.tensor].shape, generator=draws)
        for layer in [layer for layer in layers if layer.kind in ("W", "RW", "RB")][::2]
    }
    alone = Bearing(network, noisy, validation, TIGHT, ("n",), "fast", 2000).drops(
        [[layer] for layer in layers if layer.tensor in noisy]
    )["drop"]
    harmful = {name for name, drop in zip(noisy, alone, strict=True) if drop > 5 * TIGHT.tolerance}
    assert 10 < len(harmful) < len(layers) / 2
    source = {**own, **{name: noisy[name] for name in harmful}}
    bearing = Bearing(network, source, validation, TIGHT, ("n", "t", "s"), "fast", 2000)
    alone = bearing.drops([[layer] for layer in layers])["drop"]
    order = [layers[i] for i in np.argsort(alone.to_numpy(), kind="stable")]
    assert {layer.tensor for layer in greedy(bearing, order)} == {x.tensor for x in layers} - harmful
    assert order[: bearing.longest(order)] == order[: len(layers) - len(harmful)]
    for name, blind in blind_orders(network, layers, ("n", "t", "s")).items():
        assert sorted(blind) == sorted(layers), name
        first = next(i for i, layer in enumerate(blind) if layer.tensor in harmful)
        assert bearing.longest(blind) == first, name
    assert bearing.longest([layer for layer in layers if layer.tensor not in harmful]) == len(layers) - len(harmful)
    assert bearing.longest([], order) == 0


def test_effects_are_means_over_targets_and_a_mended_share_is_of_what_was_lost():
    steps = {0: 0.0, 25: 0.0, 50: 0.02, 75: 0.3, 100: 0.4}
    rows = []
    for i, target in enumerate(("t0", "t1", "t2")):
        ids = {"net": "n", "target": target, "source": "s", "aligned": False, "baseline": 0.9}
        of = {(1, "a", False): steps, (2, "b", False): dict.fromkeys(steps, 0.01)}
        of |= {(0, "whole network", False): steps, (0, "whole network", True): dict.fromkeys(steps, 0.1)}
        rows += [
            {**ids, "layer": layer, "module": module, "reestimated": again, "step": step, "patient": p,
             "dice": 0.9 - drop - 0.01 * i * (step == 100) * (layer == 0)}
            for (layer, module, again), drops in of.items() for step, drop in drops.items() for p in "ab"
            if step or again
        ]  # fmt: skip
    connected = connect_table(pd.DataFrame(rows))
    kernel = connected[(connected["target"] == "t0") & (connected["layer"] == 1)].iloc[0]
    assert kernel["barrier"] == pytest.approx(0)
    assert (kernel["drop_50"], kernel["drop_100"], kernel["n_patients"]) == (pytest.approx(0.02), pytest.approx(0.4), 2)
    llfc = connected[connected["layer"] > 0].assign(llfc=[0.5, 1.0] * 3, ends=0.25)
    found = connect_effects(connected, llfc, Verdict()).set_index("quantity")
    assert found["value"]["kernels whose swap loses more than the tolerance, share"] == 0.5
    assert found["value"]["of these, kernels of which half a step does not, share"] == 1
    assert found["value"]["linear connectivity"] == 0.75
    assert found["value"]["drop of none, statistics re-estimated"] == pytest.approx(0.1)
    expected = 1 - np.mean([0.1 / 0.4, 0.11 / 0.41, 0.12 / 0.42])
    row = found.loc["share of that which re-estimation mends"]
    assert row["value"] == pytest.approx(expected)
    assert row["low"] < expected < row["high"]
    assert row["n_targets"] == 3
    assert not any(name.endswith("aligned") for name in found.index), "nothing was aligned"


def test_lists_are_compared_over_targets():
    share = {"greedy": 0.8, "alone": 0.6, "random0": 0.1, "random1": 0.3}
    lists = pd.DataFrame(
        [
            {"net": "n", "target": f"t{i}", "source": "s", "order": order, "pairs": 10, "share": of + 0.01 * i,
             "drop_test": 0.04}
            for i in range(4) for order, of in share.items()
        ]
    )  # fmt: skip
    found = together_effects(lists, 0.95).set_index("order")
    assert list(found.index) == ["greedy", "alone", "random"]
    assert found["share"]["random"] == pytest.approx(0.215)
    assert found["more"]["alone"] == pytest.approx(0.2)
    assert found["more"]["random"] == pytest.approx(0.6)
    assert np.isnan(found["more"]["greedy"])
    assert set(found["n_targets"]) == {4}
