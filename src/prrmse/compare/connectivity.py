"""Linear connectivity of features: does a network half way between two make what is half way between theirs?

Zhou et al. 2023 (LLFC, arXiv 2307.08286). It needs no labels, and tells whether two networks are in the same order of
channels: half way between a network and its permuted copy lies another function, between aligned ones the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from prrmse.learning.device import forward_only
from prrmse.learning.evaluate import Evaluation
from prrmse.nets.layers import State, fill


class Agreement(NamedTuple):
    """``llfc``: of what is made half way with what lies half way. ``ends``: of the two networks with each other."""

    llfc: float
    ends: float


def between(own: State, source: State, fraction: float, tensors: Collection[str]) -> dict[str, torch.Tensor]:
    """``(1 - fraction) own + fraction source`` of these tensors, in the dtype of ``own``; exact at both ends."""
    return {name: torch.lerp(own[name], source[name].to(own[name]), fraction) for name in tensors}


@torch.inference_mode()
def llfc(network: nn.Module, source: State, evaluation: Evaluation, modules: Sequence[str]) -> dict[str, Agreement]:
    """Cosine of f_l((A + B) / 2) and (f_l(A) + f_l(B)) / 2 over the channels, mean over all pixels of all slices.

    Everything is averaged, running statistics too; nothing is re-estimated. Of the first convolution it is 1 for any
    two networks, since a convolution is linear in its kernel.

    Args:
        network: A; unchanged afterwards.
        source: B, a whole state of the same network.
        evaluation: the slices; their labels take no part.
        modules: whose outputs ``[N, C, H, W]`` are compared.
    """
    own = network.state_dict()
    middle = between(own, source, 0.5, [name for name, tensor in own.items() if tensor.is_floating_point()])
    copies = [evaluation.placed_copy(network) for _ in range(3)]
    for copied, state in zip(copies, ({}, source, middle), strict=True):
        fill(copied.state_dict(), state)
    sums = {path: torch.zeros(3, dtype=torch.float64, device=evaluation.device) for path in modules}
    with forward_only(evaluation.device, evaluation.dtype):
        for batch in evaluation.batches:
            made = [_outputs(copied, batch.image, modules) for copied in copies]
            for path, total in sums.items():
                for a, b, half in zip(*(outputs[path] for outputs in made), strict=True):
                    found = F.cosine_similarity(half, (a + b) / 2), F.cosine_similarity(a, b)
                    total += torch.stack(
                        [*(cosine.double().sum() for cosine in found), total.new_tensor(a[:, 0].numel())]
                    )
    return {path: Agreement(*(total[:2] / total[2]).tolist()) for path, total in sums.items()}


def _outputs(network: nn.Module, image: torch.Tensor, modules: Sequence[str]) -> dict[str, list[torch.Tensor]]:
    """What modules make of an image, in float32; several times if they are called so."""
    found: dict[str, list[torch.Tensor]] = {path: [] for path in modules}

    def keep(path: str, _module: nn.Module, _given: object, made: torch.Tensor) -> None:
        found[path].append(made.float())

    with ExitStack() as hooks:
        for path in modules:
            hooks.enter_context(network.get_submodule(path).register_forward_hook(partial(keep, path)))
        network(image)
    return found
