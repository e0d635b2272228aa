"""Training: the same bytes each time, also after a kill; frozen stays frozen; divergence is said."""

import dataclasses
import signal

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS

from prrmse import train as module
from prrmse.errors import InputError
from prrmse.evaluate import Evaluation
from prrmse.layers import inventory
from prrmse.metrics import dice
from prrmse.nets import initialise
from prrmse.sweep import sweep
from prrmse.train import batch_order, soft_dice_loss, train


def network(net="unet"):
    return initialise(net, ARGUMENTS[net], "shared", "none", "a-seg", 0)


def run(slices, net="unet", task="seg", seed=1, compute=COMPUTE, **options):
    return train(network(net), slices.split("train"), task, SETTINGS, seed, compute, **options)


def equal(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("task", ["seg", "auto"])
def test_same_seed_same_bytes_other_seed_other(task, slices):
    first = run(slices, task=task)
    assert equal(first, run(slices, task=task))
    assert not equal(first, run(slices, task=task, seed=2))


@pytest.mark.parametrize("net", ["unet", "pspnet"])
def test_killed_training_resumes_and_ends_with_the_same_bytes(net, slices, tmp_path, monkeypatch):
    undisturbed = run(slices, net)
    resume = tmp_path / ".resume"
    steps = iter(range(100))
    original = module.loss_of

    def killed(*arguments):
        if next(steps) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "loss_of", killed)
    with pytest.raises(KeyboardInterrupt):
        run(slices, net, resume=resume)
    assert resume.is_file()
    counted = []
    monkeypatch.setattr(module, "loss_of", lambda *a: counted.append(0) or original(*a))
    assert equal(run(slices, net, resume=resume), undisturbed)
    assert len(counted) == SETTINGS["steps"] - 4, "it started again instead of resuming"
    assert not resume.exists()


def test_asked_to_stop_it_saves_the_step_it_is_in(slices, tmp_path, monkeypatch):
    undisturbed = run(slices)
    original, steps = module.loss_of, []

    def stopped(*arguments):
        steps.append(0)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(module, "loss_of", stopped)
    never = {**COMPUTE, "resume_seconds": 3600}
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run(slices, resume=tmp_path / ".resume", compute=never)
    assert stop.value.code == 143
    assert len(steps) == 3
    assert signal.getsignal(signal.SIGTERM) is before
    assert equal(run(slices, resume=tmp_path / ".resume", compute=never), undisturbed)
    assert len(steps) == SETTINGS["steps"], "the stopped step was done twice, or not at all"


def test_truncated_or_foreign_snapshot_is_not_taken(slices, tmp_path):
    resume = tmp_path / ".resume"
    resume.write_bytes(b"half a file")
    assert equal(run(slices, resume=resume), run(slices))


@pytest.mark.parametrize("net", ["unet", "pspnet"])
def test_frozen_pairs_keep_their_value_and_others_move(net, slices):
    before = network(net)
    layers = inventory(before)
    frozen = [x for x in layers if x.layer % 2 and not x.final] + [x for x in layers if x.pair == ("RM", 2)]
    after = run(slices, net, frozen=frozen).state_dict()
    held = {x.tensor for x in frozen}
    for layer in layers:
        same = torch.equal(after[layer.tensor], before.state_dict()[layer.tensor])
        assert same == (layer.tensor in held), layer


def test_divergence_is_one_error(slices, monkeypatch):
    monkeypatch.setattr(module, "loss_of", lambda output, *_: output.sum() * float("nan"))
    with pytest.raises(InputError, match="lower learning_rate"):
        run(slices, title="unet a-seg")


def test_batch_order_takes_every_slice_once_an_epoch():
    order = batch_order(12, 4, 6, seed=0).flatten().tolist()
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:]


def test_soft_dice_is_zero_for_a_perfect_answer():
    label = torch.tensor([[[0, 1], [2, 3]]])
    output = 50.0 * torch.nn.functional.one_hot(label, 4).permute(0, 3, 1, 2)
    assert soft_dice_loss(output, label).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("net", ["unet", "pspnet"])
@pytest.mark.parametrize("task", ["seg", "auto"])
def test_two_channels_are_both_used(net, task, slices):
    """The structures are in the second channel only; the first is noise."""
    noise = np.random.default_rng(0).standard_normal(slices.image.shape).astype(np.float32)
    two = dataclasses.replace(slices, image=np.stack([noise, slices.image], axis=1))
    own = initialise(net, {**ARGUMENTS[net], "in_channels": 2}, "shared", "none", "a-seg", 0)
    settings = {**SETTINGS, "steps": 60, "learning_rate": 0.01, "augment": False}
    train(own, two.split("train"), task, settings, 0, COMPUTE, image_channels=2)
    evaluation = Evaluation(two.split("val"), COMPUTE, 4, image_channels=2)
    if task == "seg":
        own_dice, swapped = sweep(own, own.state_dict(), inventory(own)[:3], evaluation)
        assert dice(own_dice)[:, 1:].mean() > 0.6
        assert np.array_equal(own_dice.both, swapped[0].both)
    else:
        with torch.no_grad():
            output = evaluation.place(own)(evaluation.batches[0].image)
        batch = evaluation.batches[0]
        expected = (output - torch.cat([batch.image, batch.image], 1)).square().mean((1, 2, 3))
        first = evaluation.squared_error(own)[0]
        assert float(expected[batch.patient == 0].mean()) == pytest.approx(first, rel=1e-3)
        assert first < 1.0, "the noise cannot be learnt, the structures can"
    with pytest.raises(InputError, match="the images have 2 channels, the network takes 1"):
        Evaluation(two.split("val"), COMPUTE, 4)
