"""Training: the same bytes each time, also after a kill; frozen stays frozen; divergence is said."""

import contextlib
import dataclasses
import math
import signal
import warnings
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise
from torch._subclasses.fake_tensor import FakeTensorMode

from prrmse.engine.sweep import sweep
from prrmse.errors import InputError
from prrmse.learning import train as module
from prrmse.learning.cuda import Captured, DeterministicResizing, pixel_cross_entropy, record_graph
from prrmse.learning.dice import dice
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.optimiser import cosine_rates
from prrmse.learning.progress import Rise
from prrmse.learning.rates import BATCHES
from prrmse.learning.train import batch_order, soft_dice_loss, train
from prrmse.nets.layers import inventory
from prrmse.nets.pspnet import PSPNet
from prrmse.nets.unet import UNet


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


def test_rates_by_relative_gradient_are_what_plain_torch_gives(slices):
    """Adam's first step is as long as the rate, whatever the gradient: so the step of a tensor shows its factor."""
    settings = SETTINGS.model_copy(update={"steps": 1, "augment": False})
    train_slices = slices.split("train")
    start, other = network(), network()
    options = {"rates": "rgn", "frozen": inventory(start)[:1]}
    made = train(network(), train_slices, "seg", settings, 1, COMPUTE, **options)
    names = [name for name, _ in other.named_parameters() if name != options["frozen"][0].tensor]
    rows = batch_order(len(train_slices.image), settings.batch_size, 1, 1)[0]
    x, y = torch.from_numpy(train_slices.stacked)[rows], torch.from_numpy(train_slices.label)[rows].long()
    module.loss_of(other.train()(x), x, y, "seg", settings.loss).backward()
    own = dict(other.named_parameters())
    norms = {name: float(own[name].grad.norm() / own[name].detach().norm()) for name in names}
    largest = max(value for value in norms.values() if math.isfinite(value))
    seen = set()
    for name in names:
        step = float((made.state_dict()[name] - start.state_dict()[name]).abs().max())
        factor = norms[name] / largest if math.isfinite(norms[name]) else 1.0
        if own[name].grad.abs().max() > 1e-6:  # else Adam's epsilon counts
            assert step == pytest.approx(factor * settings.learning_rate, rel=0.02), name
            seen.add(round(factor, 3))
    assert len(seen) > 5
    (frozen,) = options["frozen"]
    assert torch.equal(made.state_dict()[frozen.tensor], start.state_dict()[frozen.tensor])
    plain = train(network(), train_slices, "seg", settings, 1, COMPUTE, frozen=options["frozen"])
    buffers = [name for name, _ in plain.named_buffers()]
    assert all(torch.equal(made.state_dict()[name], plain.state_dict()[name]) for name in buffers)


@pytest.mark.parametrize(("net", "rates"), [("unet", "equal"), ("pspnet", "equal"), ("unet", "rgn")])
def test_killed_training_resumes_and_ends_with_the_same_bytes(net, rates, slices, tmp_path, monkeypatch):
    undisturbed = run(slices, net, rates=rates)
    resume = tmp_path / ".resume"
    asked = BATCHES if rates == "rgn" else 0  # batches by which the rates are found, each time
    steps = iter(range(-asked, 100))
    original = module.loss_of

    def killed(*arguments):
        if next(steps) == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "loss_of", killed)
    with pytest.raises(KeyboardInterrupt):
        run(slices, net, rates=rates, resume=resume)
    assert resume.is_file()
    counted = []
    monkeypatch.setattr(module, "loss_of", lambda *a: counted.append(0) or original(*a))
    assert equal(run(slices, net, rates=rates, resume=resume), undisturbed)
    assert len(counted) == SETTINGS.steps - 4 + asked, "it started again instead of resuming"
    assert resume.is_file()  # until the result is saved


def test_asked_to_stop_it_saves_the_step_it_is_in(slices, tmp_path, monkeypatch):
    undisturbed = run(slices)
    original, steps = module.loss_of, []

    def stopped(*arguments):
        steps.append(0)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(module, "loss_of", stopped)
    never = COMPUTE.model_copy(update={"resume_seconds": 3600})
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        run(slices, resume=tmp_path / ".resume", compute=never)
    assert stop.value.code == 143
    assert len(steps) == 3
    assert signal.getsignal(signal.SIGTERM) is before
    assert equal(run(slices, resume=tmp_path / ".resume", compute=never), undisturbed)
    assert len(steps) == SETTINGS.steps, "the stopped step was done twice, or not at all"


def test_an_interrupted_training_leaves_the_signal_as_it_was(slices, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "loss_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(slices)
    assert signal.getsignal(signal.SIGTERM) is before


def test_truncated_or_foreign_snapshot_is_not_taken(slices, tmp_path):
    resume = tmp_path / ".resume"
    resume.write_bytes(b"half a file")
    assert equal(run(slices, resume=resume), run(slices))


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


def test_cross_entropy_of_pixels_is_that_of_maps():
    output, label = torch.randn(3, 4, 5, 6), torch.randint(0, 4, (3, 5, 6))
    expected = torch.nn.functional.cross_entropy(output, label)
    assert pixel_cross_entropy(output, label).item() == pytest.approx(expected.item(), rel=1e-6)


def test_rates_fall_by_a_cosine():
    expected = [0.5 * 0.01 * (1 + math.cos(math.pi * step / 20)) for step in range(20)]
    assert cosine_rates(0.01, 20) == pytest.approx(expected)


class Dropping(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.b(torch.nn.functional.dropout(self.a(x), 0.5, self.training))


def test_a_network_that_draws_is_seeded_and_resumes(slices, tmp_path, monkeypatch):
    def trained(**options):
        torch.manual_seed(0)
        network = Dropping()
        torch.manual_seed(len(options))  # whatever the caller has drawn before
        return train(network, slices.split("train"), "seg", SETTINGS, 1, COMPUTE, **options)

    undisturbed = trained()
    original, steps = module.loss_of, iter(range(100))
    monkeypatch.setattr(module, "loss_of", lambda *a: original(*a) if next(steps) != 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(resume=tmp_path / ".resume")
    assert equal(trained(resume=tmp_path / ".resume"), undisturbed)


class Recorded:
    """Stands for a graph of CUDA: the same memory is read and written each time, and recording does nothing."""

    def __init__(self):
        self.replays = 0

    def __call__(self, function, arguments):
        self.results = None

        def replay():
            self.replays += 1
            for own, made in zip(results, function(*arguments), strict=True):
                own.copy_(made)

        results = torch.zeros(()), torch.zeros(len(arguments[0]), 4, *arguments[0].shape[2:])
        return replay, results


def test_a_recorded_step_is_the_step(slices, monkeypatch):
    """What a graph needs of a step, on a CPU: new arguments are copied in, and its results are read from one place."""
    recorded = Recorded()
    expected = [run(slices, task=task) for task in ("seg", "auto")]
    monkeypatch.setattr(module, "prepare_step", lambda step, _: Captured(step, record=recorded))
    for task, network in zip(("seg", "auto"), expected, strict=True):
        recorded.replays = 0
        assert equal(run(slices, task=task), network)
        assert recorded.replays == SETTINGS.steps - Captured.WARM_UP


def test_a_step_that_cannot_be_recorded_is_called(caplog):
    def refuse(function, arguments):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    doubled = Captured(lambda x: (2 * x,), record=refuse)
    assert [doubled(torch.tensor([float(i)]))[0].item() for i in range(8)] == [2.0 * i for i in range(8)]
    assert [r.message for r in caplog.records] == [
        "not recorded as a graph, and slower for it: operation not permitted when stream is capturing"
    ]


def test_after_a_failed_recording_torch_is_as_it_was(monkeypatch):
    """By stand-ins: torch's context stays on its stream when a recording fails, and its generator in its mode."""
    generator, clone, left = mock.Mock(), object(), []
    generator.clone_state.return_value = clone

    @contextlib.contextmanager
    def graph(_):
        yield
        raise RuntimeError("previous error during capture")

    stream = SimpleNamespace(device_index=1)
    stands_in = {"CUDAGraph": object, "graph": graph, "current_stream": lambda: stream, "set_stream": left.append}
    for name, value in {**stands_in, "default_generators": (None, generator)}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    with pytest.raises(RuntimeError, match="previous error"):
        record_graph(lambda x: (x,), (torch.zeros(1),))
    assert left == [stream]
    generator.graphsafe_set_state.assert_called_once_with(clone)


def test_a_step_that_waits_for_the_gpu_is_never_recorded(caplog):
    """A failed recording would leave torch unable to draw random numbers."""
    calls = []

    def waits(x):
        calls.append(x)
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", UserWarning, stacklevel=1)
        warnings.warn("of something else", UserWarning, stacklevel=1)
        return (2 * x,)

    def record(function, arguments):
        raise AssertionError("it cannot be recorded")

    doubled = Captured(waits, record=record)
    with pytest.warns(UserWarning, match="of something else") as shown:
        assert [doubled(torch.tensor([float(i)]))[0].item() for i in range(6)] == [2.0 * i for i in range(6)]
    assert len([w for w in shown if "something else" in str(w.message)]) == len(calls) == 6
    assert not doubled.recorded
    (message,) = (r.message for r in caplog.records)
    assert message.startswith("not recorded as a graph, and slower for it: it waits for the GPU at ")
    assert "test_train.py:" in message


@pytest.mark.parametrize("net", ["unet", "pspnet"])
def test_resizing_as_matrices_has_the_gradients_of_torch(net, slices):
    """In float64. In float32 the two ways round apart by 1e-7, and a ReLU whose input lies that near 0 turns over: one
    of 32768 in a layer of PSPNet then moves every gradient before it by 1e-3. No bound tells that from a mistake.
    """
    own = network(net).train().double()
    image = torch.from_numpy(slices.image[:4]).unsqueeze(1).double()
    gradients = []
    for context in (contextlib.nullcontext(), DeterministicResizing(everywhere=True)):
        own.zero_grad()
        with context:
            own(image).square().mean().backward()
        gradients.append([p.grad.clone() for p in own.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("net", [UNet(width=4), PSPNet(width=8, head_width=32)])
def test_no_gradient_on_a_gpu_depends_on_the_order_of_its_threads(net):
    """By fake CUDA tensors (`FakeTensorMode`)."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        for part in net.train().modules():
            for name, value in {**part._parameters, **part._buffers}.items():
                if value is not None:
                    fake = torch.empty_like(value, device="cuda")
                    own = part._parameters if name in part._parameters else part._buffers
                    own[name] = torch.nn.Parameter(fake) if name in part._parameters else fake
        image, label = torch.empty(2, 1, 32, 32, device="cuda"), torch.empty(2, 32, 32, device="cuda").long()
        with DeterministicResizing():
            output = net(image)
        loss = module.loss_of(output, image, label, "seg", "ce+dice")
    found = gradients_of(loss.grad_fn)
    assert {"ConvolutionBackward0", "CudnnBatchNormBackward0", "NllLossBackward0", "UnsafeViewBackward0"} <= found
    # torch.use_deterministic_algorithms lists these; the detour of resizing ends in the last.
    bad = ("NllLoss2D", "Upsample", "AdaptiveAvgPool2D", "AvgPool3D", "UnsafeIndex", "IndexBackward")
    assert not [name for name in found if name.startswith(bad)]


def gradients_of(last):
    found, left = set(), [last]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [before for before, _ in node.next_functions]
    return {node.name() for node in found}


@pytest.mark.parametrize("net", ["unet", "pspnet"])
@pytest.mark.parametrize("task", ["seg", "auto"])
def test_two_channels_are_both_used(net, task, slices):
    """The structures are in the second channel only; the first is noise."""
    noise = np.random.default_rng(0).standard_normal(slices.image.shape).astype(np.float32)
    two = dataclasses.replace(slices, image=np.stack([noise, slices.image], axis=1))
    own = initialise(net, {**ARGUMENTS[net], "in_channels": 2}, "shared", "none", "a-seg", 0)
    settings = SETTINGS.model_copy(update={"steps": 60, "learning_rate": 0.01, "augment": False})
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


@pytest.mark.parametrize("rising", [True, False])
def test_a_training_whose_dice_still_rises_warns(rising, slices, caplog):
    part = slices.split("train")
    image, label = torch.from_numpy(part.image)[:, None], torch.from_numpy(part.label).long()

    class Answers(torch.nn.Module):
        """The true classes, but for some rows of pixels, fewer of them when it is asked again."""

        asked = 0

        def forward(self, x):
            self.asked += 1
            found = label.clone()
            found[:, : 12 if self.asked == 1 and rising else 8] = 0
            return torch.nn.functional.one_hot(found, 4).movedim(-1, 1).float()

    answers = Answers()
    rise = Rise("unet a-seg", 20, answers, answers, image, label, len(label))
    for step in range(1, 21):
        rise.look(step)
    assert answers.asked == 2, "before and after the last tenth"
    assert answers.training
    assert ("unet a-seg: Dice still rises; train for more steps" in caplog.text) == rising
