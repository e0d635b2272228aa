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
    """Sampled pixels, arrays ``[n]``: position in the slices, row, column; their label and their patient's number."""

    slice: np.ndarray
    row: np.ndarray
    column: np.ndarray
    label: np.ndarray
    patient: np.ndarray


def sample_pixels(evaluation: Evaluation, n: int, seed: int) -> Pixels:
    """About n pixels without replacement, equally many of every (patient, class) as far as there are.

    Balanced, because nearly all pixels of a slice are background; and by patient, because pixels of one are alike.
    """
    label = torch.cat([batch.label for batch in evaluation.batches]).cpu().numpy()
    patient = torch.cat([batch.patient for batch in evaluation.batches]).cpu().numpy()
    rng = np.random.default_rng(seed)
    cells = [
        np.argwhere((label == c) & (patient == p)[:, None, None])
        for p in range(len(evaluation.patients))
        for c in range(evaluation.channels)
    ]
    each = max(2, n // max(1, sum(len(cell) > 0 for cell in cells)))
    chosen = np.concatenate([rng.permutation(cell)[:each] for cell in cells])
    where = tuple(chosen.T)
    return Pixels(where[0], where[1], where[2], label[where], patient[where[0]])


@torch.inference_mode()
def features(
    network: nn.Module, evaluation: Evaluation, pixels: Pixels, inputs: Sequence[str] = (), outputs: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Values of a network at the sampled pixels, in float32.

    Of a feature map smaller than the slice it is the value at the position that covers the pixel; of a module that is
    called several times, that of the last call.

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
    size = evaluation.batches[0].image.shape[-2:]

    def keep(key: tuple[str, str], value: torch.Tensor) -> None:
        row, column = (p[here] * s // full for p, s, full in zip(pixels[1:3], value.shape[-2:], size, strict=True))
        at = [torch.from_numpy(index).to(value.device) for index in (pixels.slice[here] - first, row, column)]
        found[-1][key] = value[at[0], :, at[1], at[2]].float().cpu().numpy()

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
            here = np.flatnonzero((pixels.slice >= first) & (pixels.slice < first + len(batch.image)))
            order.append(here)
            found.append({})
            keep(("own", ""), output_of(network(batch.image)))
            first += len(batch.image)
    back = np.argsort(np.concatenate(order))
    values = {key: np.concatenate([batch[key] for batch in found])[back] for key in found[0]}
    sides = [{path: value for (kind, path), value in values.items() if kind == side} for side in ("in", "out")]
    return sides[0], sides[1], values["own", ""]
