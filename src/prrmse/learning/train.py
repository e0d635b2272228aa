"""The training loop, for both tasks, from scratch or with reused parameters."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from prrmse.data.slices import IGNORE, Slices
from prrmse.errors import InputError
from prrmse.files import atomic
from prrmse.learning.augment import Augmentation
from prrmse.learning.cuda import adam, cross_entropy, prepare_step, set_rate
from prrmse.learning.device import autocast, choose_device, choose_precision, deterministic
from prrmse.learning.evaluate import output_of, reconstruction_target, with_channels
from prrmse.names import Layer
from prrmse.settings import Compute, Training

log = logging.getLogger(__name__)

PROGRESS_LINES = 8


def train(
    network: nn.Module,
    slices: Slices,
    task: str,
    settings: Training,
    seed: int,
    compute: Compute,
    *,
    image_channels: int = 1,
    frozen: Iterable[Layer] = (),
    title: str = "",
    resume: Path | None = None,
) -> nn.Module:
    """Train in place with Adam and a cosine schedule to zero, for a fixed number of steps.

    Nothing about the protocol is in the paper's text; this one is ours [rec]: equal steps for every
    model, the last state is the result (no selection on the reporting set).

    Args:
        network: at its starting point, on the CPU.
        slices: the training slices.
        task: ``seg``: cross-entropy (plus soft Dice, if ``loss`` says so) on the labels;
            ``auto``: mean squared error, every output channel against the input image (paper).
        settings: how long, how fast, with which loss.
        seed: of batch order and augmentation.
        compute: where and in which dtype.
        image_channels: that the network takes; a grey image is repeated.
        frozen: pairs that keep their value (transfer arm ``freeze``).
        title: shown before the progress.
        resume: where the state is saved every ``compute.resume_seconds`` and looked for at the start;
            a training killed at any moment continues from there and ends with the same bytes.

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        InputError: the loss became NaN or infinite, or CUDA is asked for and there is none.
    """
    device = choose_device(compute.device)
    dtype = choose_precision(compute.precision, device)
    network.to(device).to(memory_format=torch.channels_last).train()
    image = torch.from_numpy(slices.stacked).to(device)
    label = torch.from_numpy(slices.label).to(device, torch.int64)
    steps, batch_size = settings.steps, settings.batch_size
    order = batch_order(len(slices.image), batch_size, steps, seed).to(device)
    augmentation = Augmentation(steps, batch_size, seed, device) if settings.augment else None

    hold = FrozenParameters(network, frozen)
    optimiser = Optimiser(network, settings.learning_rate, settings.weight_decay, steps, device)

    def step_on(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(device, dtype):
            shown = with_channels(x, image_channels).contiguous(memory_format=torch.channels_last)
            output = output_of(network(shown)).float()
        loss = loss_of(output, x, y, task, settings.loss)
        optimiser.step(loss)
        hold.restore()
        return loss.detach(), output.detach()

    do_step = prepare_step(step_on, device)
    snapshot = Snapshot(resume, _identity(slices, task, settings, seed, title, device), compute.resume_seconds)
    progress = Progress(title, steps, task)
    stop = StopRequest()
    drawn_on = [device] if device.type == "cuda" else []
    with deterministic(compute.threads), torch.random.fork_rng(devices=drawn_on):
        torch.manual_seed(seed)  # for networks that draw, as dropout does
        for step in range(snapshot.restore(network, optimiser), steps):
            x, y = image[order[step]], label[order[step]]
            if augmentation is not None:
                x, y = augmentation(step, x, y)
            optimiser.set_rate(step)
            loss, output = do_step(x, y)
            progress.show(step + 1, loss, output, y)
            snapshot.save(step + 1, network, optimiser, now=stop.made)
            stop.obey()
    stop.forget()
    if not all(bool(torch.isfinite(v).all()) for v in network.state_dict().values()):
        raise InputError(f"{title}: training diverged (parameters not finite); lower <learning_rate>")
    snapshot.delete()
    return network.cpu().to(memory_format=torch.contiguous_format).eval()


class Optimiser:
    """Adam with a cosine schedule to zero.

    Args:
        network: its parameters that need gradients are trained.
        rate, weight_decay: of Adam; the rate is the first one.
        steps: of the training.
        device: of the network.
    """

    def __init__(self, network: nn.Module, rate: float, weight_decay: float, steps: int, device: torch.device) -> None:
        trainable = [p for p in network.parameters() if p.requires_grad]
        self.adam = adam(trainable, rate, weight_decay, device)
        self._rates = cosine_rates(rate, steps)

    def set_rate(self, step: int) -> None:
        """The rate of a step, from 0."""
        set_rate(self.adam, self._rates[step])

    def step(self, loss: torch.Tensor) -> None:
        """Change the parameters by the gradient of the loss."""
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()


def cosine_rates(first: float, steps: int) -> list[float]:
    """The rate of each step, from the first to nearly zero, by torch's own schedule."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(()))], first)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.get_last_lr()[0]))
        optimiser.step()
        schedule.step()
    return rates


def batch_order(n: int, batch_size: int, steps: int, seed: int) -> torch.Tensor:
    """Rows of each step, int64 ``[steps, batch_size]``: epochs in random order, laid end to end."""
    rng = np.random.default_rng(seed)
    epochs = -(-steps * batch_size // n)
    rows = np.concatenate([rng.permutation(n) for _ in range(epochs)])
    return torch.from_numpy(rows[: steps * batch_size].reshape(steps, batch_size))


def loss_of(output: torch.Tensor, image: torch.Tensor, label: torch.Tensor, task: str, kind: str) -> torch.Tensor:
    """Loss of one batch: output ``[N, C, H, W]``, image ``[N, C, H, W]``, label ``[N, H, W]``.

    Pixels with the label `IGNORE` take no part in segmentation.
    """
    if task == "auto":
        return F.mse_loss(output, reconstruction_target(output, image))
    loss = cross_entropy(output, label)
    return loss + soft_dice_loss(output, label) if kind == "ce+dice" else loss


def soft_dice_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 - mean over foreground classes of the Dice of probabilities, pooled over the batch (Milletari et al. 2016)."""
    probability = output.softmax(1).masked_fill((label == IGNORE).unsqueeze(1), 0)[:, 1:]
    classes = torch.arange(1, output.shape[1], device=label.device).view(-1, 1, 1)
    truth = (label.unsqueeze(1) == classes).to(probability.dtype)
    both = (probability * truth).sum((0, 2, 3))
    total = probability.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    return 1 - ((2 * both + 1) / (total + 1)).mean()


class FrozenParameters:
    """Keeps the tensors of some pairs at their present value during training.

    Weights and biases get no gradient. A BN layer with both running statistics frozen runs in
    evaluation mode; with one of them frozen it trains as usual and that one is put back after
    each step. The paper does not say what its frozen BN layers do [rec].
    """

    def __init__(self, network: nn.Module, frozen: Iterable[Layer]) -> None:
        frozen = list(frozen)
        modules = dict(network.named_modules())
        self._held: list[tuple[torch.Tensor, torch.Tensor]] = []
        for layer in frozen:
            tensor = getattr(modules[layer.module], layer.tensor.rsplit(".", 1)[1])
            if isinstance(tensor, nn.Parameter):
                tensor.requires_grad_(False)
            else:
                self._held.append((tensor, tensor.clone()))
        means = {layer.module for layer in frozen if layer.kind == "RM"}
        for name in means & {layer.module for layer in frozen if layer.kind == "RV"}:
            modules[name].eval()

    def restore(self) -> None:
        """Put the held buffers back."""
        for tensor, value in self._held:
            tensor.copy_(value)


class Progress:
    """A bar with loss and batch Dice, as whole lines: several jobs may share one terminal and one log."""

    def __init__(self, title: str, steps: int, task: str) -> None:
        self.title, self.steps, self.task = title, steps, task
        self.start = time.monotonic()
        self.every = max(1, steps // PROGRESS_LINES)

    def show(self, step: int, loss: torch.Tensor, output: torch.Tensor, label: torch.Tensor) -> None:
        if step % self.every and step != self.steps:
            return
        text = f"loss {loss.item():.4f}"
        if self.task == "seg":
            text += f", Dice of the batch {batch_dice(output, label):.3f}"
        elapsed = time.monotonic() - self.start
        bar = tqdm.format_meter(step, self.steps, elapsed, ncols=100, prefix=self.title, unit="step", postfix=text)
        log.info("%s", bar)


def batch_dice(output: torch.Tensor, label: torch.Tensor) -> float:
    """Mean Dice over the foreground classes present, pooled over the batch."""
    prediction = output.argmax(1).masked_fill(label == IGNORE, IGNORE)
    scores = []
    for c in label.unique().tolist():
        if c not in (0, IGNORE):
            p, t = prediction == c, label == c
            scores.append(2 * (p & t).sum().item() / max(1, p.sum().item() + t.sum().item()))
    return float(np.mean(scores)) if scores else float("nan")


class Snapshot:
    """The state of an unfinished training, saved now and then, complete or not at all.

    The file is no declared output of the workflow, so a failed job leaves it in place.
    """

    def __init__(self, path: Path | None, identity: str, every_seconds: float) -> None:
        self.path, self.identity, self.every = path, identity, every_seconds
        self._last = time.monotonic()

    def restore(self, network: nn.Module, optimiser: Optimiser) -> int:
        """Load the state if there is one of this very training; the number of steps already done."""
        if self.path is None or not self.path.is_file():
            return 0
        try:
            state = torch.load(self.path, weights_only=True)
        except Exception:
            log.warning("%s: not a complete snapshot; starting again", self.path)
            return 0
        if state["identity"] != self.identity:
            log.warning("%s: of other data or settings; starting again", self.path)
            return 0
        network.load_state_dict(state["network"])
        optimiser.adam.load_state_dict(state["optimiser"])
        set_random_state(state["random"])
        log.info("resuming after step %d from %s", state["step"], self.path)
        return int(state["step"])

    def save(self, step: int, network: nn.Module, optimiser: Optimiser, *, now: bool = False) -> None:
        """Save if the interval has passed, or ``now``."""
        if self.path is None or not (now or time.monotonic() - self._last >= self.every):
            return
        state = {"identity": self.identity, "step": step, "random": random_state()}
        with atomic(self.path) as partial:
            torch.save({**state, "network": network.state_dict(), "optimiser": optimiser.adam.state_dict()}, partial)
        self._last = time.monotonic()

    def delete(self) -> None:
        """The training is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class StopRequest:
    """SIGTERM, which a cluster sends before it kills (time limit, preemption, scancel): end after the present step."""

    def __init__(self) -> None:
        self.made = False
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            self._before = signal.signal(signal.SIGTERM, self._make)

    def _make(self, *_: object) -> None:
        self.made = True

    def obey(self) -> None:
        """End the process if it was asked to."""
        if self.made:
            log.warning("asked to stop (SIGTERM): the state is saved; run again to go on from here")
            self.forget()
            raise SystemExit(128 + signal.SIGTERM)

    def forget(self) -> None:
        """Give SIGTERM back to whoever had it."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def random_state() -> list[torch.Tensor]:
    """Of torch's generators: the CPU's, then that of the GPU, if one is in use."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]


def set_random_state(state: list[torch.Tensor]) -> None:
    """Go on with the draws where `random_state` was read."""
    torch.set_rng_state(state[0].cpu())
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1].cpu())


def _identity(slices: Slices, task: str, settings: Training, seed: int, title: str, device: torch.device) -> str:
    text = json.dumps([slices.fingerprint(), task, settings.model_dump(), seed, title, device.type], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
