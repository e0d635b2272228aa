"""Controls of the swap experiment: sources of which it is known what a sound measure must say (ours).

A swap that lowers Dice shows little as long as it is not known what any swap does. These sources are swept by the same
code as a real one:

- ``self``: the target itself: no swap may change anything.
- ``seed``: the target trained with another seed: the reference for "almost unchanged".
- ``permuted``: the target with its hidden channels in another order, ``rescaled``: with its convolutions scaled and the
  normalisations behind them corrected. Both compute what the target computes; a swap of raw tensors breaks it all the
  same.
- ``aligned``: the permuted copy after weight matching (`prrmse.compare.align`): harmless again.
- ``initialisation``: that of the target; ``random``: another one: what a kernel without training does.
- ``shuffled``: each tensor's entries in random order: its values without its structure.
- ``noise-SOURCE``: the target plus noise of the norm by which SOURCE differs from it: distance without direction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse.compare.align import channels_of, match, permute, random_order
from prrmse.engine.program import norms_behind
from prrmse.engine.table import sweep_table
from prrmse.engine.trace import trace
from prrmse.learning.target import Target
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.nets.initialisation import initialised_network
from prrmse.nets.layers import State
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, Network


def control_experiment(
    name: str,
    target: Path,
    other: Path | None,
    data: Path,
    seed: int,
    spec: Network,
    init: str,
    compute: Compute,
    *,
    engine: str,
    memory_mb: float,
) -> pd.DataFrame:
    """Sweep one control as `prrmse.experiments.swap.swap_experiment` sweeps a source.

    Args:
        name: of `prrmse.names.CONTROLS`, or ``noise-SOURCE``.
        target: checkpoint.
        other: the other seed's checkpoint for ``seed``, SOURCE's for noise; else None.
        data: processed data set of the target.
        seed: run seed; the control's draws derive from it.
        spec, init: see `prrmse.nets.initialisation.initialised_network`.
        compute: where and in which dtype.
        engine, memory_mb: see `prrmse.engine.sweep.sweep`.
    """
    own = Target.load(target, data, spec, compute)
    other_state = load_checkpoint(other)[0] if other else None
    net, model = own.header["net"], own.header["model"]
    if name == "initialisation":
        other_state = initialised_network(net, spec, init, model, seed).state_dict()
    evaluation = own.validation()
    image = evaluation.batches[0].image[:1].cpu()
    source = control_state(name, own.network, image, derive_seed(net, model, "control", name, seed), other_state)
    return sweep_table(own.network, source, evaluation, engine=engine, memory_mb=memory_mb)


def control_state(
    name: str, network: nn.Module, image: torch.Tensor, seed: int, other: State | None
) -> dict[str, torch.Tensor]:
    """The state of a control.

    Args:
        name: of `prrmse.names.CONTROLS`, or ``noise-SOURCE``.
        network: the target, in evaluation mode.
        image: any input of the right shape.
        seed: of what is drawn.
        other: the state that ``seed``, ``initialisation`` and noise refer to.
    """
    own = {key: value.clone() for key, value in network.state_dict().items()}
    if name == "self":
        return own
    if name in ("seed", "initialisation"):
        assert other is not None
        return dict(other)
    if name in ("permuted", "aligned"):
        channels = channels_of(network, image)
        permuted = permute(own, channels, random_order(channels, seed))
        return permuted if name == "permuted" else permute(permuted, channels, match(own, permuted, channels, seed))
    if name == "rescaled":
        return rescaled(network, image, seed)
    draws = torch.Generator().manual_seed(seed)
    if name == "random":
        return {key: _fresh(key, value, draws) for key, value in own.items()}
    if name == "shuffled":
        return {k: v.flatten()[torch.randperm(v.numel(), generator=draws)].view(v.shape) for k, v in own.items()}
    assert name.startswith("noise-") and other is not None, name
    return {key: _noisy(key, value, other[key], draws) for key, value in own.items()}


def rescaled(network: nn.Module, image: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """Scale the channels of every convolution that a normalisation follows; the normalisation undoes it exactly.

    With s > 0: W, B and the running mean are multiplied by s, and the running variance v becomes
    ``(v + eps) s^2 - eps``; s is log-uniform between 2 and 4.
    """
    state = {key: value.clone() for key, value in network.state_dict().items()}
    rng = np.random.default_rng(seed)
    for into, path in norms_behind(trace(network, image), network).items():
        conv, norm = network.get_submodule(into), network.get_submodule(path)
        assert isinstance(conv, nn.modules.conv._ConvNd) and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        if conv.transposed or norm.running_var is None:
            continue
        scale = torch.from_numpy(np.exp(rng.uniform(np.log(2), np.log(4), conv.out_channels))).float()
        state[f"{into}.weight"] *= scale.view(-1, *[1] * (state[f"{into}.weight"].ndim - 1))
        if conv.bias is not None:
            state[f"{into}.bias"] *= scale
        state[f"{path}.running_mean"] *= scale
        state[f"{path}.running_var"] = (state[f"{path}.running_var"] + norm.eps) * scale**2 - norm.eps
    return state


def _fresh(name: str, value: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Kernels uniform as torch draws them, running statistics neutral, vectors drawn again from their own values."""
    if name.endswith("running_mean") or not value.is_floating_point():
        return torch.zeros_like(value)
    if name.endswith("running_var"):
        return torch.ones_like(value)
    if value.ndim > 1:
        bound = float(value[0].numel()) ** -0.5
        drawn: torch.Tensor = (2 * torch.rand(value.shape, generator=draws) - 1) * bound
        return drawn
    # A normalisation's weight or bias, or a convolution's bias: torch initialises most of them as constants.
    return value[torch.randint(value.numel(), value.shape, generator=draws)]


def _noisy(name: str, own: torch.Tensor, other: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    if not own.is_floating_point():
        return own
    noise = torch.randn(own.shape, generator=draws)
    moved: torch.Tensor = own + noise * ((other - own).norm() / noise.norm().clamp_min(1e-30))
    return moved.clamp_min(0) if name.endswith("running_var") else moved
