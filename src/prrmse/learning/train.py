"""The training loop, for both tasks, from scratch or with reused parameters."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from prrmse.data.slices import IGNORE, Slices
from prrmse.errors import InputError
from prrmse.learning.augment import Augmentation
from prrmse.learning.cuda import DeterministicResizing, cross_entropy, prepare_step
from prrmse.learning.device import autocast, choose_device, choose_precision, deterministic
from prrmse.learning.evaluate import layout_of, output_of, reconstruction_target, with_channels
from prrmse.learning.freeze import Freezing, batch_norms, reestimate
from prrmse.learning.optimiser import Optimiser
from prrmse.learning.progress import Progress, Rise
from prrmse.learning.rates import factors_of
from prrmse.learning.snapshot import Snapshot, StopRequest, identity_of
from prrmse.names import Layer
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, FrozenStatistics, Rates, Training


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
    frozen_statistics: FrozenStatistics = "both",
    rates: Rates = "equal",
    title: str = "",
    resume: Path | None = None,
) -> nn.Module:
    """Train in place with Adam and a cosine schedule to zero, for a fixed number of steps.

    Nothing about the protocol is in the paper's text; this one is ours (reconstruction): equal steps for every
    model, the last state is the result (no selection on the reporting set).

    Args:
        network: at its initialisation, on the CPU.
        slices: the training slices.
        task: ``seg``: cross-entropy (plus soft Dice, if ``loss`` says so) on the labels;
            ``auto``: mean squared error, every output channel against the input image (paper).
        settings: how long, how fast, with which loss.
        seed: of batch order and augmentation.
        compute: where and in which dtype.
        image_channels: that the network takes; a grey image is repeated.
        frozen: pairs that keep their value (transfer arm ``freeze``).
        frozen_statistics: what becomes of running statistics among them (`prrmse.learning.freeze.Freezing`).
        rates: of all tensors ``equal``; or ``rgn``: by their relative gradients at the start, over the first batches
            (`prrmse.learning.rates.factors_of`).
        title: shown before the progress.
        resume: where the state is saved every ``compute.resume_seconds`` and looked for at the start;
            a training killed at any moment continues from there and ends with the same bytes. The file stays, until
            the caller has saved the result (`prrmse.learning.snapshot.discard`).

    Returns:
        The network, on the CPU, in evaluation mode.

    Raises:
        InputError: the loss became NaN or infinite, or CUDA is asked for and there is none, or everything is frozen.
    """
    device = choose_device(compute.device)
    dtype = choose_precision(compute.precision, device)
    frozen = list(frozen)
    what = [
        task,
        settings.model_dump(),
        seed,
        title,
        image_channels,
        sorted(layer.tensor for layer in frozen),
        frozen_statistics,
        rates,
    ]
    where = [device.type, str(dtype), compute.threads]
    snapshot = Snapshot(resume, lambda: identity_of(network, slices, [*what, *where]), compute.resume_seconds)
    freezing = Freezing(network.train(), frozen, frozen_statistics)
    if not any(p.requires_grad for p in network.parameters()):
        raise InputError(f"{title}: every parameter is frozen, so nothing is left to train")
    is_3d = slices.image.ndim == 5
    layout = layout_of(slices.stacked.ndim)
    network.to(device).to(memory_format=layout)
    # Patches of all patients may be more than a GPU holds; to fetch a few is little beside a step on them.
    held = torch.device("cpu") if is_3d else device
    image, label = torch.from_numpy(slices.stacked).to(held), torch.from_numpy(slices.label).to(held)
    steps, batch_size = settings.steps, settings.batch_size
    order = batch_order(len(slices.image), batch_size, steps, seed)
    if is_3d:
        order = with_foreground(order, slices.label, seed)
    order = order.to(held)
    augmentation = Augmentation(steps, batch_size, seed, device) if settings.augment else None

    def forward(x: torch.Tensor) -> torch.Tensor:
        with autocast(device, dtype), freezing.context():
            shown = with_channels(x.to(device), image_channels).contiguous(memory_format=layout)
            return output_of(network(shown)).float()

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        return image[order[step]].to(device), label[order[step]].to(device, torch.int64)

    def loss_at(step: int) -> torch.Tensor:
        x, y = batch(step)
        return loss_of(forward(x), x, y, task, settings.loss)

    drawn_on = [device] if device.type == "cuda" else []
    with deterministic(compute.threads), torch.random.fork_rng(devices=drawn_on), DeterministicResizing():
        torch.manual_seed(seed)
        factors = factors_of(network, rates, loss_at, steps)
    optimiser = Optimiser(network, settings.learning_rate, settings.weight_decay, steps, device, factors)

    def step_on(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = forward(x)
        loss = loss_of(output, x, y, task, settings.loss)
        optimiser.step(loss)
        return loss.detach(), output.detach()

    do_step = prepare_step(step_on, device)
    progress = Progress(title, steps, task, optimiser.adam)
    rise = Rise(title, steps, network, forward, image, label, batch_size) if task == "seg" else None
    own_draws = torch.random.fork_rng(devices=drawn_on)
    with StopRequest(saved=resume is not None) as stop, deterministic(compute.threads), own_draws:
        torch.manual_seed(seed)  # for networks that draw, as dropout does
        for step in range(snapshot.restore(network, optimiser), steps):
            x, y = batch(step)
            if augmentation is not None:
                x, y = augmentation(step, x, y)
            optimiser.set_rate(step)
            loss, output = do_step(x, y)
            progress.show(step + 1, loss, output, y, optimiser.rate)
            if rise is not None:
                rise.look(step + 1)
            snapshot.save(step + 1, network, optimiser, now=stop.made)
            stop.obey()
        if frozen and frozen_statistics == "reestimated":
            free = [norm for norm in batch_norms(network) if norm.training]
            epoch = batch_order(len(image), batch_size, -(-len(image) // batch_size), seed)
            reestimate(forward, network, free, (image[rows] for rows in epoch.to(held)))
    if not all(bool(torch.isfinite(v).all()) for v in network.state_dict().values()):
        raise InputError(f"{title}: training diverged (parameters not finite); lower <learning_rate>")
    return network.cpu().to(memory_format=torch.contiguous_format).eval()


def batch_order(n: int, batch_size: int, steps: int, seed: int) -> torch.Tensor:
    """Rows of each step, int64 ``[steps, batch_size]``: epochs in random order, laid end to end."""
    rng = np.random.default_rng(seed)
    epochs = -(-steps * batch_size // n)
    rows = np.concatenate([rng.permutation(n) for _ in range(epochs)])
    return torch.from_numpy(rows[: steps * batch_size].reshape(steps, batch_size))


def with_foreground(order: torch.Tensor, label: np.ndarray, seed: int) -> torch.Tensor:
    """Batches of patches, most of which may be background alone: a third of each, at least one, has foreground.

    As nnU-Net has it (``oversample_foreground_percent``).

    Args:
        order: of `batch_order`; unchanged where no patch has foreground.
        label: ``[N, D, H, W]``.
        seed: of the draws.
    """
    found = np.array([bool(((patch > 0) & (patch != IGNORE)).any()) for patch in label])
    rows = torch.from_numpy(np.flatnonzero(found))
    if not len(rows):
        return order
    steps, batch_size = order.shape
    few = -(-batch_size // 3)
    drawn = rows[batch_order(len(rows), few, steps, derive_seed("foreground", seed))]
    if batch_size == 1:  # in a third of the steps
        drawn[1::3], drawn[2::3] = order[1::3], order[2::3]
    return torch.cat([drawn, order[:, few:]], 1)


def loss_of(output: torch.Tensor, image: torch.Tensor, label: torch.Tensor, task: str, kind: str) -> torch.Tensor:
    """Loss of one batch: output ``[N, C, ...]``, image ``[N, C, ...]``, label ``[N, ...]``.

    Pixels with the label `IGNORE` take no part in segmentation.
    """
    if task == "auto":
        return F.mse_loss(output, reconstruction_target(output, image))
    loss = cross_entropy(output, label)
    return loss + soft_dice_loss(output, label) if kind == "ce+dice" else loss


def soft_dice_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 - mean over foreground classes of the Dice of probabilities, pooled over the batch (Milletari et al. 2016)."""
    probability = output.softmax(1).masked_fill((label == IGNORE).unsqueeze(1), 0)[:, 1:]
    classes = torch.arange(1, output.shape[1], device=label.device).view(-1, *[1] * (label.ndim - 1))
    truth = (label.unsqueeze(1) == classes).to(probability.dtype)
    pixels = (0, *range(2, output.ndim))
    both = (probability * truth).sum(pixels)
    total = probability.sum(pixels) + truth.sum(pixels)
    return 1 - ((2 * both + 1) / (total + 1)).mean()
