"""Learning rates by how strongly each tensor is asked to change (Lee et al. 2023, Auto-RGN)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn

from prrmse.settings import Rates

# As the authors' code has it.
BATCHES = 5


def factors_of(
    network: nn.Module, rates: Rates, loss_at: Callable[[int], torch.Tensor], steps: int
) -> dict[str, float] | None:
    """The factor of each trained tensor's learning rate: its relative gradient norm over the largest of the network.

    The relative gradient norm is the norm of the gradient over that of the tensor, mean over batches. A tensor of
    zeros, which has none, gets the full rate. The authors ask anew in every epoch; here it is asked once, at the start,
    so that a training that is resumed has the same rates.

    Args:
        network: at its start; what a forward pass in training mode changes is put back.
        rates: ``rgn``; or ``equal``, then all have one rate.
        loss_at: the loss of the batch of a step, from 0.
        steps: of the training.

    Returns:
        Name of a parameter that needs gradients -> factor in [0, 1]; None for equal rates.
    """
    if rates == "equal":
        return None
    before = [(buffer, buffer.clone()) for buffer in network.buffers()]
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    found: dict[str, list[float]] = defaultdict(list)
    for step in range(min(BATCHES, steps)):
        network.zero_grad(set_to_none=True)
        loss_at(step).backward()
        for name, parameter in trained.items():
            size = float(parameter.detach().norm())
            if parameter.grad is not None and size:
                found[name].append(float(parameter.grad.norm()) / size)
    network.zero_grad(set_to_none=True)
    for buffer, values in before:
        buffer.copy_(values)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    largest = max(means.values(), default=0.0)
    return {name: means[name] / largest if name in means and largest else 1.0 for name in trained}
