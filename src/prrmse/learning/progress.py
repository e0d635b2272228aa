"""What a training says while it runs, and its curve."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from prrmse.data.slices import IGNORE
from prrmse.log import in_words

log = logging.getLogger(__name__)

PROGRESS_LINES = 8
# Of a curve, evenly spaced; beside them the first step, the last, and those of the lines.
CURVE_POINTS = 50
# Significant digits of the numbers of a curve.
DIGITS = 6
# Training slices, or 3D patches, on which Dice is measured towards the end, and the rise of it that is worth a warning.
SLICES, PATCHES = 64, 8
RISE = 0.01
# After so many seconds without a line, one says how long the training may take.
PATIENCE_SECONDS = 10

# ``step`` (from 1), ``loss`` and learning ``rate`` of that step; of a segmentation ``dice`` of its batch. None for what
# is not finite: a loss that diverged, the Dice of a batch without foreground.
Point = dict[str, float | None]
Listener = Callable[[str, Point], None]
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Context in which a function gets every point of every training's curve, with the training's title.

    A training that is resumed begins with the points of the steps that were done before.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Progress:
    """The curve of a training, and a bar with loss and batch Dice, as whole lines: several jobs may share one terminal.

    The points travel in the optimiser's state, so that a curve is whole after a resume. To read a number from a GPU is
    to wait for it, while it gets nothing to do: points are computed there, and read with the next line, or when the
    state is saved.

    Args:
        title: of the training.
        steps: of the training.
        task: ``seg`` or ``auto``.
        optimiser: of the training.
    """

    def __init__(self, title: str, steps: int, task: str, optimiser: torch.optim.Optimizer) -> None:
        self.title, self.steps, self.task = title, steps, task
        self.start = time.monotonic()
        self.before: int | None = None  # steps done before this process
        self.told = False
        self.every = max(1, steps // PROGRESS_LINES)
        self.spacing = -(-steps // CURVE_POINTS)
        self.points: list[Point] = []
        self._unread: list[tuple[int, torch.Tensor]] = []
        optimiser.register_state_dict_post_hook(self._save)
        optimiser.register_load_state_dict_pre_hook(self._restore)

    def show(
        self, step: int, loss: torch.Tensor, output: torch.Tensor, label: torch.Tensor, rate: float | torch.Tensor
    ) -> None:
        """After each step, from 1."""
        if self.before is None:
            self.before = step - 1
        line = step % self.every == 0 or step == self.steps
        self._foretell(step, line)
        if not (line or step == 1 or step % self.spacing == 0):
            return
        values = [loss.double(), torch.as_tensor(rate, dtype=torch.float64)]
        if self.task == "seg":
            values.append(batch_dice(output, label))
        self._unread.append((step, torch.stack(values)))
        if not line:
            return
        self._read()
        now = {key: math.nan if value is None else value for key, value in self.points[-1].items()}
        text = f"loss {now['loss']:.4f}"
        if self.task == "seg":
            text += f", Dice of the batch {now['dice']:.3f}"
        elapsed = time.monotonic() - self.start
        bar = tqdm.format_meter(
            step, self.steps, elapsed, 100, prefix=self.title, unit="step", postfix=text, initial=self.before
        )
        log.info("%s", bar)

    def _foretell(self, step: int, line: bool) -> None:
        """How long it may take, once, where the first line is still far off."""
        elapsed = time.monotonic() - self.start
        if not (self.told or line) and elapsed >= PATIENCE_SECONDS:
            left = elapsed / (step - (self.before or 0)) * (self.steps - step)
            log.info("%s: %d of %d steps, about %s left", self.title, step, self.steps, in_words(left))
            self.told = True
        self.told |= line

    def _read(self) -> None:
        if not self._unread:
            return
        rows = torch.stack([values for _, values in self._unread]).tolist()
        for (step, _), row in zip(self._unread, rows, strict=True):
            rounded = [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in row]
            self._add({"step": step, **dict(zip(("loss", "rate", "dice"), rounded, strict=False))})
        self._unread.clear()

    def _add(self, point: Point) -> None:
        self.points.append(point)
        for listener in _listeners:
            listener(self.title, point)

    def _save(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        self._read()
        state["points"] = list(self.points)

    def _restore(self, _: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        for point in state["points"]:
            self._add(point)


class Rise:
    """Warns where the Dice of a training still rose in its last tenth: it has not converged.

    Dice of the network as it would be evaluated, on the same training slices, before and after the last tenth. The
    rates fall to zero, so the end of a training is flat by itself: no warning does not say that more steps would not
    change the result.

    Args:
        title: of the training.
        steps: of the training.
        network, forward: the network, and what runs it on images.
        image, label: of the training, ``[N, C, ...]`` and ``[N, ...]``.
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
        step = -(-len(image) // (PATCHES if image.ndim == 5 else SLICES))
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
        cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.no_grad(), torch.random.fork_rng(devices=cuda):
            made = torch.cat([self.forward(image).argmax(1) for image, _ in self.parts])
        for module, training in modes:
            module.training = training
        label = torch.cat([label for _, label in self.parts]).to(made.device)
        return float(label_dice(made, label, label.unique()))


def batch_dice(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean Dice of logits ``[N, C, ...]`` over the foreground classes present, pooled over the batch."""
    return label_dice(output.argmax(1), label, torch.arange(output.shape[1], device=output.device))


def label_dice(prediction: torch.Tensor, label: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The same of predicted classes ``[N, ...]``; ``classes`` are those that can be there.

    A float64 on the same device, from which nothing is read; NaN where there is no foreground.
    """
    prediction = prediction.masked_fill(label == IGNORE, IGNORE)
    scores = []
    for c in classes:
        p, t = prediction == c, label == c
        dice = 2 * (p & t).sum().double() / (p.sum() + t.sum())
        scores.append(torch.where(t.any() & (c != 0) & (c != IGNORE), dice, torch.nan))
    return torch.stack(scores).nanmean()
