"""Distances and similarities of source and target, layer by layer, beyond the raw RMSE (ours, not the paper's).

Of every kernel (W), the final convolution included. Distances are 0 for equal layers; relative ones are 1 for
uncorrelated tensors of any norm (`prrmse.compare.distance.relative_rmse`).

- ``rmse``, ``rmse_relative``: as in ``rmse.csv``.
- ``rmse_folded``: relative, after each BN behind a kernel is folded into it: blind to the scale that a BN undoes.
- ``rmse_aligned``: relative, after the source's channels are permuted by weight matching (`prrmse.compare.align`):
  blind to the order of channels.
- ``rmse_folded_aligned``: both.
- ``rmse_weighted``: what the difference of the kernels does to the target's own inputs of that layer, relative to what
  the target's kernel does: sqrt(tr(D S D') / tr(W S W')), S the second moment of those inputs.
- ``distance_ratio``: |initial - target| / |source - target| (arXiv 2212.00399): above 1, the source is nearer to the
  target than the target's initialisation is.
- ``task_cosine``: cosine between the displacements of target and source from the target's initialisation.
- ``cka``: linear CKA of the layer's outputs at sampled pixels of the target's slices: agreement in function.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse.compare.align import channels_of, match, permute
from prrmse.compare.distance import relative_rmse, rmse
from prrmse.compare.features import Pixels, features
from prrmse.compare.scores import linear_cka
from prrmse.engine.program import norms_behind
from prrmse.engine.trace import TracingError, trace
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.names import Layer
from prrmse.nets.layers import State, fill

log = logging.getLogger(__name__)

DISTANCES = ("rmse", "rmse_relative", "rmse_folded", "rmse_aligned", "rmse_folded_aligned", "rmse_weighted")
SIMILARITIES = ("distance_ratio", "task_cosine", "cka")


def similarity_table(
    target: nn.Module, source: State, initial: State, evaluation: Evaluation, pixels: Pixels, seed: int
) -> pd.DataFrame:
    """One row per kernel: layer, module, final, scalars, `DISTANCES` and `SIMILARITIES`.

    Where torch.fx cannot trace the network, what needs its structure (folded, aligned) is NaN.

    Args:
        target: in evaluation mode.
        source: a state of the same network.
        initial: the target's initialisation.
        evaluation: slices of the target.
        pixels: sampled from them.
        seed: of the alignment's order.
    """
    own = {name: tensor.detach().cpu() for name, tensor in target.state_dict().items()}
    kernels = [layer for layer in reaching(target, evaluation.whole.image[:1]) if layer.kind == "W"]
    other = copy.deepcopy(target)
    fill(other.state_dict(), source)
    weighted = _weighted(target, source, kernels, evaluation)
    outputs = [features(n, evaluation, pixels, outputs=[k.module for k in kernels])[1] for n in (target, other)]
    target.cpu()
    views: dict[str, tuple[State, State]] = {"rmse_relative": (own, source)}
    try:
        image = evaluation.whole.image[:1].cpu()
        behind = norms_behind(trace(target, image), target)
        channels = channels_of(target, image)
        # Matched after folding: the scale that a BN undoes must not decide.
        fold_own, fold_source = (folded(state, target, behind) for state in (own, source))
        order = match(fold_own, fold_source, channels, seed)
        aligned = permute(source, channels, order)
        views["rmse_folded"] = fold_own, fold_source
        views["rmse_aligned"] = own, aligned
        views["rmse_folded_aligned"] = fold_own, folded(aligned, target, behind)
    except TracingError as e:
        log.warning("%s; no folded and no aligned distances", e)
    rows = []
    for layer in kernels:
        name = layer.tensor
        row = {"layer": layer.layer, "module": layer.module, "final": layer.final, "scalars": layer.scalars}
        row |= dict.fromkeys((*DISTANCES, *SIMILARITIES), np.nan)
        row["rmse"] = rmse(own[name].numpy(), source[name].numpy())
        row |= {view: relative_rmse(a[name].numpy(), b[name].numpy()) for view, (a, b) in views.items()}
        row["rmse_weighted"] = weighted[layer.module]
        row |= _displacement(own[name], source[name], initial[name])
        row["cka"] = linear_cka(*(values[layer.module] for values in outputs))
        rows.append(row)
    return pd.DataFrame(rows)


def folded(state: State, network: nn.Module, behind: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The state with every BN that alone reads a convolution folded into that convolution's W and B.

    The BN's weight and running variance become 1, its bias and running mean 0: the function is the same, up to eps.

    Args:
        state: of the network.
        network: says eps and where a kernel's output channels are.
        behind: of `prrmse.engine.program.norms_behind`.
    """
    found = {name: tensor.clone() for name, tensor in state.items()}
    for conv_path, norm_path in behind.items():
        conv, norm = network.get_submodule(conv_path), network.get_submodule(norm_path)
        assert isinstance(conv, nn.modules.conv._ConvNd)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        mean, variance = (f"{norm_path}.running_{kind}" for kind in ("mean", "var"))
        if conv.transposed or variance not in state or f"{norm_path}.weight" not in state:
            continue
        scale = state[f"{norm_path}.weight"] / torch.sqrt(state[variance] + norm.eps)
        kernel = f"{conv_path}.weight"
        found[kernel] *= scale.view(-1, *[1] * (found[kernel].ndim - 1))
        shift = state[f"{norm_path}.bias"] - scale * state[mean]
        if conv.bias is None:
            found[f"{norm_path}.bias"] = shift
        else:
            found[f"{conv_path}.bias"] = found[f"{conv_path}.bias"] * scale + shift
            found[f"{norm_path}.bias"] = torch.zeros_like(shift)
        found[f"{norm_path}.weight"], found[variance] = torch.ones_like(scale), torch.ones_like(scale) - norm.eps
        found[mean] = torch.zeros_like(scale)
    return found


@torch.inference_mode()
def _weighted(target: nn.Module, source: State, kernels: list[Layer], evaluation: Evaluation) -> dict[str, float]:
    """``rmse_weighted``: by running the difference of the kernels, and the kernel, on the layer's inputs."""
    sums = {layer.module: np.zeros(2) for layer in kernels}
    evaluation.place(target)
    with ExitStack() as hooks:
        for layer in kernels:
            module = target.get_submodule(layer.module)
            assert isinstance(module, nn.modules.conv._ConvNd)
            pair = [copy.deepcopy(module), copy.deepcopy(module)]
            pair[0].weight.copy_(source[layer.tensor].to(module.weight) - module.weight)
            for each in pair:
                each.bias = None

            def add(
                _: nn.Module,
                args: tuple[torch.Tensor, ...],
                pair: list[nn.modules.conv._ConvNd] = pair,
                total: np.ndarray = sums[layer.module],
            ) -> None:
                total += [float(each(args[0]).double().square().sum()) for each in pair]

            hooks.enter_context(module.register_forward_pre_hook(add))
        for batch in evaluation.batches:
            target(batch.image)
    return {path: float(np.sqrt(a / b)) if b > 0 else float("nan") for path, (a, b) in sums.items()}


def _displacement(own: torch.Tensor, source: torch.Tensor, initial: torch.Tensor) -> dict[str, float]:
    """distance_ratio and task_cosine; NaN where a model did not change."""
    a, b = ((state - initial).double().flatten() for state in (own, source))
    apart = float((a - b).norm())
    norms = float(a.norm() * b.norm())
    return {
        "distance_ratio": float(a.norm()) / apart if apart > 0 else np.nan,
        "task_cosine": float(a @ b) / norms if norms > 0 else np.nan,
    }
