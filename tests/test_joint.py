"""Swaps of several tensors: what must come out when source and target are twins."""

import copy

import torch

from prrmse.engine.sweep import sweep, sweep_changes
from prrmse.experiments.control import control_state
from prrmse.experiments.joint import joint_changes, units
from prrmse.learning.dice import dice
from prrmse.learning.freeze import reestimated
from prrmse.nets.layers import inventory


def losses(trained, source):
    network, training, validation = trained
    named = list(joint_changes(network, source, training))
    own, changed = sweep_changes(network, [change for _, change in named], validation)
    baseline = dice(own)[:, 1:].mean()
    names = [(name["variant"], name["layer"]) for name, _ in named]
    return dict(zip(names, [baseline - dice(counts)[:, 1:].mean() for counts in changed], strict=True))


def test_a_rescaled_twin_is_harmless_where_what_belongs_together_is_swapped(trained):
    network = trained[0]
    twin = control_state("rescaled", network, torch.zeros(1, 1, 32, 32), 0, None)
    found = losses(trained, twin)
    assert max(abs(v) for (variant, _), v in found.items() if variant in ("joint", "cumulative")) < 1e-6
    apart = reestimated(network, {}, trained[1])
    alone = {name: twin[name] for name in apart}
    _, (broken,) = sweep_changes(network, [alone], trained[2])
    assert dice(broken)[:, 1:].mean() < 0.5, "statistics without their kernels must do harm"


def test_estimating_again_mends_a_kernel_of_another_scale(trained):
    network, training, validation = trained
    twin = control_state("rescaled", network, torch.zeros(1, 1, 32, 32), 0, None)
    found = losses(trained, twin)
    by_itself = found["reestimated", 0]
    kernels = [layer for layer in inventory(network) if layer.kind == "W" and not layer.final]
    own, swapped = sweep(network, twin, kernels, validation)
    alone = [dice(own)[:, 1:].mean() - dice(counts)[:, 1:].mean() for counts in swapped]
    again = [found["reestimated", layer.layer] - by_itself for layer in kernels]
    assert sum(again) < sum(alone) / 2
    # Where no bias stands between kernel and BN, the two together are the twin's own: nothing is lost.
    behind = units(network, training.whole.image)
    whole = [k.layer for k in kernels if len(behind[k.module]) == 3 and f"{k.module}.bias" not in behind[k.module]]
    assert len(whole) == (0 if "inc.0.bias" in behind.get("inc.0", []) else 20)
    assert all(abs(found["reestimated", layer] - by_itself) < 0.02 for layer in whole)


def test_cumulative_ends_with_everything_that_belongs_together(trained):
    network, training, _ = trained
    source = {k: v + 1 for k, v in network.state_dict().items()}
    last = [change for name, change in joint_changes(network, source, training) if name["variant"] == "cumulative"][-1]
    final = network.final_name
    tensors = {t for module, names in units(network, training.whole.image).items() if module != final for t in names}
    assert set(last) == tensors
    assert all(torch.equal(last[name], source[name]) for name in tensors)


def test_reestimated_statistics_are_those_of_the_images(trained):
    network, training, _ = trained
    before = copy.deepcopy(network.state_dict())
    found = reestimated(network, {}, training)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    first = next(iter(units(network, training.whole.image).values()))
    kernel = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        outputs = [kernel(batch.image).movedim(1, 0).flatten(1) for batch in training.batches]
    torch.testing.assert_close(
        found[first[-2]], torch.stack([o.mean(1) for o in outputs]).mean(0), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(found[first[-1]], torch.stack([o.var(1) for o in outputs]).mean(0), rtol=1e-4, atol=1e-5)


def test_changes_of_many_tensors_equal_the_plain_way(trained):
    network, training, validation = trained
    noise = torch.Generator().manual_seed(0)
    source = {
        k: (v + 0.2 * v.std() * torch.randn(v.shape, generator=noise)).clamp_min(0 if "var" in k else -1e9)
        if v.is_floating_point() and v.numel() > 1
        else v
        for k, v in network.state_dict().items()
    }
    changes = [change for _, change in joint_changes(network, source, training)][::3]
    plain, *others = (sweep_changes(network, changes, validation, engine=e) for e in ("plain", "exact", "fast"))
    for own, changed in others:
        for a, b in zip([plain[0], *plain[1]], [own, *changed], strict=True):
            assert abs(dice(a) - dice(b)).max() < 1e-4
