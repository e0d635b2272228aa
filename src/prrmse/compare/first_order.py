"""How far swaps could move a target's loss, to first order: one backward pass for every pair of every source (ours).

For a tensor w of the target with the gradient g of its cross-entropy, and the source's w', it is the sum of
abs(g (w' - w)) over the elements. Of a Taylor expansion each element's term is taken by its size, as criteria for
pruning do (Molchanov et al. 2017; SNIP, Lee et al. 2019), where w' is 0: after training, terms of both signs cancel,
and their plain sum tells little. The cross-entropy is a sum over all pixels for each pixel of foreground, so that how
much background the images have does not count. It puts pairs in an order; it is no drop in Dice, and no bound of steps
that are not small (docs/screen.md).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prrmse.compare.distance import relative_rmse, rmse
from prrmse.data.slices import IGNORE
from prrmse.errors import InputError
from prrmse.failures import is_memory
from prrmse.learning.cuda import DeterministicResizing, cross_entropy
from prrmse.learning.device import autocast
from prrmse.learning.evaluate import Batch, Evaluation, output_of
from prrmse.names import PAIR_COLUMNS, Layer
from prrmse.nets.layers import State, normalises_by_batch

log = logging.getLogger(__name__)

# None of the swaps in docs/screen.md with a smaller estimate dropped by more than 0.05 Dice.
HARMLESS = 0.05
# Slices at once: a backward pass keeps every activation, as a step of training does.
BATCH = 8


def loss_gradients(network: nn.Module, evaluation: Evaluation, tensors: Collection[str]) -> dict[str, torch.Tensor]:
    """Gradients of the cross-entropy for each pixel of foreground, of parameters and of running statistics.

    Args:
        network: in evaluation mode, so normalised by its running statistics; unchanged afterwards.
        evaluation: the slices, with their labels.
        tensors: names in the network's state.

    Returns:
        By name, on the CPU; NaN where no gradient comes to a tensor, because it takes no part in the output, or does so
        where the network computes without gradients.

    Raises:
        InputError: the loss is not finite, no pixel is foreground, or the network cannot be differentiated.
    """
    # Also within inference mode, whose tensors cannot be in a graph.
    with torch.inference_mode(False), torch.enable_grad():
        placed = evaluation.placed_copy(network)
        state = placed.state_dict(keep_vars=True)
        wanted = [state[name].requires_grad_(True) for name in tensors]
        totals: list[torch.Tensor | None] = [None] * len(wanted)
        whole = evaluation.whole
        foreground = int(((whole.label > 0) & (whole.label != IGNORE)).sum())
        if not foreground:
            raise InputError("no pixel of these slices is labelled as foreground; name a split that has structures")
        largest = len(evaluation.batches[0].image)
        for part in whole.parts(largest if normalises_by_batch(placed) else min(BATCH, largest)):
            counted = int((part.label != IGNORE).sum())
            if counted:
                loss, found = _gradients(placed, part, wanted, evaluation, counted / foreground)
                if not bool(loss.isfinite()):
                    raise InputError(f"{type(network).__name__}: the target's loss on these slices is not finite")
                for i, gradient in enumerate(found):
                    if gradient is not None:
                        total = totals[i]
                        totals[i] = gradient.double() if total is None else total + gradient
    return {
        name: torch.full(tensor.shape, torch.nan, dtype=torch.float64) if total is None else total.cpu()
        for name, tensor, total in zip(tensors, wanted, totals, strict=True)
    }


def _gradients(
    network: nn.Module, part: Batch, wanted: Sequence[torch.Tensor], evaluation: Evaluation, weight: float
) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
    """The loss of some slices, its mean over pixels times the weight, and its gradients."""
    dtype = evaluation.dtype
    try:
        with DeterministicResizing(), _DifferentiableStatistics(), autocast(evaluation.device, dtype):
            output = output_of(network(part.image.clone())).float()
        loss = weight * cross_entropy(output, part.label.clone())
        return loss.detach(), torch.autograd.grad(loss, wanted, allow_unused=True)
    except RuntimeError as e:
        if is_memory(e):
            raise
        cause = next(iter(str(e).strip().splitlines()), "")
        raise InputError(f"{type(network).__name__}: cannot be differentiated ({cause})") from None


def first_order(gradient: torch.Tensor, own: torch.Tensor, source: torch.Tensor) -> float:
    """Sum of abs(gradient (source - own)): how far the loss moves, to first order, if no two elements cancel."""
    return float((gradient * (source - own)).abs().sum())


def screen_table(
    network: nn.Module, sources: Mapping[str, State], evaluation: Evaluation, layers: Sequence[Layer]
) -> pd.DataFrame:
    """`first_order` of every pair of every source, beside its distance.

    Args:
        network: the target.
        sources: tensors by name, of the same shapes; a pair that a source lacks is left out.
        evaluation: as `loss_gradients`.
        layers: the pairs.

    Returns:
        One row per (source, pair): source, kind, layer, module, final, scalars, first_order (NaN where no gradient
        comes to the tensor), rmse, rmse_relative.

    Raises:
        InputError: as `loss_gradients`.
    """
    own = network.state_dict()
    gradients = loss_gradients(network, evaluation, [layer.tensor for layer in layers])
    if without := [name for name, gradient in gradients.items() if gradient.isnan().any()]:
        log.warning("%d tensors get no gradient, so have no estimate, first %s", len(without), without[0])
    rows = []
    for name, state in sources.items():
        for layer in (layer for layer in layers if layer.tensor in state):
            ours, theirs = (tensors[layer.tensor].detach().cpu().double() for tensors in (own, state))
            found = {
                "first_order": first_order(gradients[layer.tensor], ours, theirs),
                "rmse": rmse(ours.numpy(), theirs.numpy()),
                "rmse_relative": relative_rmse(ours.numpy(), theirs.numpy()),
            }
            rows.append({"source": name, **{column: getattr(layer, column) for column in PAIR_COLUMNS}, **found})
    return pd.DataFrame(rows)


class _DifferentiableStatistics(TorchFunctionMode):
    """Normalises by running statistics such that these get gradients, which torch's own operation gives to none."""

    NAMES = ("input", "running_mean", "running_var", "weight", "bias", "own", "momentum", "eps")

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (F.batch_norm, F.instance_norm):
            return func(*args, **kwargs)
        # What says whether to normalise by the input's own statistics is the sixth argument of both.
        given = dict(zip(self.NAMES, args, strict=False)) | kwargs
        by_own = given.get("own", given.get("training", given.get("use_input_stats", func is F.instance_norm)))
        if by_own or given["running_mean"] is None:
            return func(*args, **kwargs)
        image = given["input"]
        shape = (1, -1) + (1,) * (image.ndim - 2)
        scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
        if given.get("weight") is not None:
            scale = scale * given["weight"]
        made = (image - given["running_mean"].view(shape)) * scale.view(shape)
        return made if given.get("bias") is None else made + given["bias"].view(shape)
