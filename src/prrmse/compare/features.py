"""What a network makes of sampled pixels: the features that transferability scores and CKA are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from prrmse.learning.evaluate import Evaluation, output_of


class Pixels(NamedTuple):
    """Sampled pixels, or voxels of patches, as arrays ``[n]``: their label and their patient's number.

    ``where``: which of the slices, then the position along each of its axes, as one indexes ``label`` of `Slices`.
    """

    where: tuple[np.ndarray, ...]
    label: np.ndarray
    patient: np.ndarray


def sample_pixels(evaluation: Evaluation, n: int, seed: int) -> Pixels:
    """About n pixels without replacement, equally many of every (patient, class) as far as there are.

    Balanced, because nearly all pixels of a slice are background; and by patient, because pixels of one are alike.
    """
    label = torch.cat([batch.label for batch in evaluation.batches]).cpu().numpy()
    patient = torch.cat([batch.patient for batch in evaluation.batches]).cpu().numpy()
    rng = np.random.default_rng(seed)
    cells = []
    for p in range(len(evaluation.patients)):
        own = np.flatnonzero(patient == p)
        for c in range(evaluation.channels):
            first, *others = np.nonzero(label[own] == c)
            cells.append(np.stack([own[first], *others], axis=1))
    each = max(2, n // max(1, sum(len(cell) > 0 for cell in cells)))
    chosen = np.concatenate([rng.permutation(cell)[:each] for cell in cells])
    at = tuple(chosen.T)
    return Pixels(at, label[at], patient[at[0]])


@torch.inference_mode()
def features(
    network: nn.Module, evaluation: Evaluation, pixels: Pixels, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Values of a network at the sampled pixels, in float32.

    Of a feature map smaller than the slice it is the value at the position that covers the pixel, along every axis; of
    a module that is called several times, that of the last call.

    Args:
        network: in evaluation mode.
        evaluation: the slices from which the pixels were sampled.
        pixels: of `sample_pixels`.
        inputs, outputs: paths of modules whose first input, or output, is wanted.

    Returns:
        Inputs and outputs by path, each ``[n, channels]``; and the network's own output ``[n, classes]``.
    """
    found: list[dict[tuple[str, str], np.ndarray]] = []  # of each batch
    here = np.array([], dtype=int)
    number, *position = pixels.where
    size = evaluation.batches[0].label.shape[1:]

    def keep(key: tuple[str, str], value: torch.Tensor) -> None:
        covering = (p[here] * s // full for p, s, full in zip(position, value.shape[2:], size, strict=True))
        at = tuple(torch.from_numpy(index).to(value.device) for index in (number[here] - first, *covering))
        found[-1][key] = value.movedim(1, -1)[at].float().cpu().numpy()

    modules = dict(evaluation.place(network).named_modules())
    order, first = [], 0
    with ExitStack() as hooks:
        for path in dict.fromkeys(inputs):  # a path that is named twice must not be recorded twice
            hook = partial(lambda key, _, args: keep(key, args[0]), ("in", path))
            hooks.enter_context(modules[path].register_forward_pre_hook(hook))
        for path in dict.fromkeys(outputs):
            hook = partial(lambda key, _, __, made: keep(key, made), ("out", path))
            hooks.enter_context(modules[path].register_forward_hook(hook))
        for batch in evaluation.batches:
            here = np.flatnonzero((number >= first) & (number < first + len(batch.image)))
            order.append(here)
            found.append({})
            keep(("own", ""), output_of(network(batch.image)))
            first += len(batch.image)
    back = np.argsort(np.concatenate(order))
    values = {key: np.concatenate([batch[key] for batch in found])[back] for key in found[0]}
    sides = [{path: value for (kind, path), value in values.items() if kind == side} for side in ("in", "out")]
    return sides[0], sides[1], values["own", ""]
