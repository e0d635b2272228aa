"""What a training says while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from prrmse.data.slices import IGNORE

log = logging.getLogger(__name__)

PROGRESS_LINES = 8
# Training slices on which Dice is measured towards the end, and the rise of it that is worth a warning.
SLICES = 64
RISE = 0.01


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


class Rise:
    """Warns where the Dice of a training still rose in its last tenth: it has not converged.

    Dice of the network as it would be evaluated, on the same training slices, before and after the last tenth. The
    rates fall to zero, so the end of a training is flat by itself: no warning does not say that more steps would not
    change the result.

    Args:
        title: of the training.
        steps: of the training.
        network, forward: the network, and what runs it on images.
        image, label: of the training, ``[N, C, H, W]`` and ``[N, H, W]``.
        batch_size: slices a step.
    """

    def __init__(
        self,
        title: str,
        steps: int,
        network: nn.Module,
        forward: Callable[[torch.Tensor], torch.Tensor],
        image: torch.Tensor,
        label: torch.Tensor,
        batch_size: int,
    ) -> None:
        self.title, self.steps, self.network, self.forward = title, steps, network, forward
        step = -(-len(image) // SLICES)
        self.parts = list(zip(image[::step].split(batch_size), label[::step].split(batch_size), strict=True))
        self.before: float | None = None

    def look(self, step: int) -> None:
        """After each step, from 1."""
        if step == self.steps - self.steps // 10:
            self.before = self.dice()
        elif step == self.steps and self.before is not None:
            after = self.dice()
            rise = after - self.before
            text = "%s: Dice on training slices %.3f, in the last tenth of the steps %+.3f"
            log.info(text, self.title, after, rise)
            if rise > RISE:
                log.warning("%s: Dice still rises; train for more steps", self.title)

    def dice(self) -> float:
        """Of the training slices, by the network in evaluation mode."""
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        cuda = [self.parts[0][0].device] if self.parts[0][0].device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            made = torch.cat([self.forward(image).argmax(1) for image, _ in self.parts])
        for module, training in modes:
            module.training = training
        return label_dice(made, torch.cat([label for _, label in self.parts]))


def batch_dice(output: torch.Tensor, label: torch.Tensor) -> float:
    """Mean Dice of logits ``[N, C, H, W]`` over the foreground classes present, pooled over the batch."""
    return label_dice(output.argmax(1), label)


def label_dice(prediction: torch.Tensor, label: torch.Tensor) -> float:
    """The same of predicted classes ``[N, H, W]``."""
    prediction = prediction.masked_fill(label == IGNORE, IGNORE)
    scores = []
    for c in label.unique().tolist():
        if c not in (0, IGNORE):
            p, t = prediction == c, label == c
            scores.append(2 * (p & t).sum().item() / max(1, p.sum().item() + t.sum().item()))
    return float(np.mean(scores)) if scores else float("nan")
