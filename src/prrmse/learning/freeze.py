"""Freezing: which tensors keep their value during a training, and what becomes of running statistics.

A batch normalisation computes one function in training, with the statistics of the batch, and another in evaluation,
with its running statistics. The two agree because the running statistics follow those of the batches. If one of them is
set back to a source's value after each step, they part: the network that is trained is not the one that is evaluated.
All three treatments here train the function that is evaluated. The paper does not say which it used (reconstruction).
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prrmse.learning.device import forward_only
from prrmse.learning.evaluate import Evaluation
from prrmse.names import Layer
from prrmse.nets.layers import State, fill
from prrmse.settings import FrozenStatistics

log = logging.getLogger(__name__)

# Slices on which an experiment re-estimates running statistics: thousands of pixels for every channel.
SLICES = 64


class Freezing:
    """Freezes the tensors of some pairs, under every name that they have in the network.

    Weights and biases (W, B, RW, RB) get no gradient. Running statistics (RM, RV), by ``statistics``:

    - ``both``: a normalisation of which both are listed uses them in training too, as in evaluation. Of any other,
      both follow the batches as usual, a listed one included: it is where they start.
    - ``literal``: exactly the listed ones keep their value. Where only one is listed, training normalises with it and
      with the batch's value of the other, whose running estimate evaluation uses.
    - ``reestimated``: as ``both``; `reestimate` then replaces the running statistics that were free.

    Args:
        network: in training mode, before it is moved to a device. Changed: gradients, modes of normalisations.
        layers: the pairs to freeze.
        statistics: see above.
    """

    def __init__(self, network: nn.Module, layers: Iterable[Layer], statistics: FrozenStatistics = "both") -> None:
        modules = dict(network.named_modules(remove_duplicate=False))
        layers = list(layers)
        tensors = {id(getattr(modules[layer.module], layer.tensor.rpartition(".")[2])) for layer in layers}
        for parameter in network.parameters():
            if id(parameter) in tensors:
                parameter.requires_grad_(False)
        self.half: dict[nn.Module, tuple[bool, bool]] = {}
        for norm in network.modules():
            kept = id(getattr(norm, "running_mean", None)) in tensors, id(getattr(norm, "running_var", None)) in tensors
            if all(kept):
                norm.training = False  # not eval(): that would reach the modules inside, e.g. an activation that draws
            elif any(kept):
                self.half[norm] = kept
        self._literal = statistics == "literal"
        if self.half and not self._literal:
            named = [f"{x.kind} {x.layer}" for x in layers if x.kind in ("RM", "RV") and modules[x.module] in self.half]
            log.info("not frozen, since the other statistic of the layer is not: %s", ", ".join(named))

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """In which the network's forward pass in training is to run."""
        if self.half and self._literal:
            return OneStatisticKept(self.half)
        return contextlib.nullcontext()


class OneStatisticKept(TorchFunctionMode):
    """Context in which some normalisations use one of their running statistics in training, and keep its value.

    It acts on the operation that the modules call, so that what a subclass does after it stays.

    Args:
        norms: with whether they keep mean and variance, exactly one of the two.
    """

    def __init__(self, norms: Mapping[nn.Module, tuple[bool, bool]]) -> None:
        super().__init__()
        self._kept = {id(norm.running_mean): kept for norm, kept in norms.items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.batch_norm, F.instance_norm):
            given = inspect.signature(func).bind(*args, **kwargs)
            given.apply_defaults()
            has = given.arguments
            kept = self._kept.get(id(has["running_mean"]))
            if kept is not None and has.get("training", has.get("use_input_stats")):
                with torch.autocast(has["input"].device.type, enabled=False):
                    return _normalise(kept, whole_batch=func is F.batch_norm, **has)
        return func(*args, **kwargs)


def _normalise(
    kept: tuple[bool, bool],
    whole_batch: bool,
    input: torch.Tensor,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    momentum: float,
    eps: float,
    **_: bool,
) -> torch.Tensor:
    """Batch or instance normalisation ``[N, C, ...]`` in training, of which mean or variance is the running one."""
    x = input.float()
    axes = [*([0] if whole_batch else []), *range(2, x.ndim)]
    var, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    n = x.numel() / mean.numel()
    shape = (1, -1, *[1] * (x.ndim - 2))
    with torch.no_grad():  # as torch does: the running variance is that of the population
        if not kept[0]:
            running_mean.lerp_(mean.mean(0).flatten(), momentum)
        if not kept[1]:
            running_var.lerp_(var.mean(0).flatten() * (n / (n - 1)), momentum)
    mean = running_mean.view(shape) if kept[0] else mean
    var = running_var.view(shape) if kept[1] else var
    y = (x - mean) * torch.rsqrt(var + eps)
    if weight is not None:
        y = y * weight.view(shape)
    if bias is not None:
        y = y + bias.view(shape)
    return y.to(input.dtype)


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch normalisations that have running statistics."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [norm for norm in norms if norm.running_mean is not None]


@torch.no_grad()
def reestimate(
    forward: Callable[[torch.Tensor], object],
    network: nn.Module,
    norms: Sequence[nn.modules.batchnorm._BatchNorm],
    batches: Iterable[torch.Tensor],
) -> None:
    """Estimate running statistics anew: the mean over these batches, each with the same weight.

    Args:
        forward: runs the network on a batch.
        network: left in evaluation mode.
        norms: normalisations of the network; the others keep their running statistics and use them.
        batches: images ``[N, C, ...]``.
    """
    network.eval()
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative mean
        norm.training = True
    for batch in batches:
        forward(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.training = False


@torch.inference_mode()
def reestimated(network: nn.Module, change: State, training: Evaluation) -> dict[str, torch.Tensor]:
    """Running statistics of every BN, each batch weighing the same, with the changed tensors in place.

    Args:
        network: the target; unchanged afterwards.
        change: tensors by name.
        training: the images; their labels take no part.
    """
    copied = training.placed_copy(network)
    fill(copied.state_dict(), change)
    norms = batch_norms(copied)
    with forward_only(training.device, training.dtype):
        reestimate(copied, copied, norms, (batch.image for batch in training.batches))
    named = {f"{name}.running_{kind}": norm for name, norm in copied.named_modules() if norm in norms
             for kind in ("mean", "var")}  # fmt: skip
    return {name: getattr(norm, name.rpartition(".")[2]).float().cpu() for name, norm in named.items()}
