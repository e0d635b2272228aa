"""Adam with a cosine schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from prrmse.learning.cuda import adam, set_rate


class Optimiser:
    """Adam with a cosine schedule to zero.

    Args:
        network: its parameters that need gradients are trained.
        rate, weight_decay: of Adam; the rate is the first one.
        steps: of the training.
        device: of the network.
        factors: of the rate of single parameters, by name, the largest of which is 1; None: all have one rate.
    """

    def __init__(
        self,
        network: nn.Module,
        rate: float,
        weight_decay: float,
        steps: int,
        device: torch.device,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
        groups = [list(trainable.values())], [1.0]
        if factors is not None:
            groups = [[parameter] for parameter in trainable.values()], [factors[name] for name in trainable]
        self.adam = adam(*groups, rate, weight_decay, device)
        self._full = max(range(len(groups[1])), key=groups[1].__getitem__)
        self._rates = cosine_rates(rate, steps)

    def set_rate(self, step: int) -> None:
        """The rate of a step, from 0."""
        set_rate(self.adam, self._rates[step])

    @property
    def rate(self) -> float | torch.Tensor:
        """That of the step, where the factor is 1; on a GPU a tensor there."""
        found: float | torch.Tensor = self.adam.param_groups[self._full]["lr"]
        return found

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
