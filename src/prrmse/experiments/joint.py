"""Swaps of several tensors: a layer's together, cumulatively over layers, and with re-estimated statistics (ours).

The paper swaps one (kind, layer) pair at a time. A BN's running mean and variance are those of its own kernel's
output, so a kernel that is swapped alone meets the statistics of another; and pairs that are harmless one by one need
not be so together. Three variants, each over the network's convolutions in registration order, the
final one left out:

- ``joint``: a convolution's W and B with RM and RV of the BN behind it;
- ``cumulative``: the same of this convolution and of all before it;
- ``reestimated``: W alone, and then the running statistics of every BN re-estimated on training images of the target,
  without labels. Its layer 0 swaps nothing: the effect of re-estimating alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from prrmse.data.slices import some_slices
from prrmse.engine.program import norms_behind
from prrmse.engine.sweep import sweep_changes
from prrmse.engine.table import dice_by_change
from prrmse.engine.trace import TracingError, trace
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.freeze import SLICES, reestimated
from prrmse.learning.reach import reaching
from prrmse.learning.target import Target
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.nets.layers import State, inventory
from prrmse.settings import Compute, Network

log = logging.getLogger(__name__)


def joint_experiment(
    target: Path, source: Path, data: Path, spec: Network, compute: Compute, *, engine: str, memory_mb: float
) -> pd.DataFrame:
    """Dice of the target with each of these swaps; arguments as for `prrmse.experiments.swap.swap_experiment`.

    Returns:
        One row per (variant, layer, patient, class): variant, layer, module, patient, class, dice, baseline.
    """
    own = Target.load(target, data, spec, compute)
    state, _ = load_checkpoint(source)
    evaluation = own.validation()
    training = own.on(some_slices(own.slices.split("train"), SLICES, own.header["model"]))
    named = list(joint_changes(own.network, state, training))
    log.info("%d swaps on %d validation patients", len(named), len(evaluation.patients))
    changes = [change for _, change in named]
    found = sweep_changes(own.network, changes, evaluation, engine=engine, memory_mb=memory_mb)
    return dice_by_change(*evaluation.rebased(own.network, *found), [name for name, _ in named], evaluation)


def joint_changes(
    network: nn.Module, source: State, training: Evaluation
) -> Iterator[tuple[dict[str, str | int | bool], dict[str, torch.Tensor]]]:
    """What each variant is called (variant, layer, module), and the tensors that it replaces.

    Args:
        network: the target.
        source: state of the source.
        training: slices on which statistics are re-estimated.
    """
    image = training.whole.image[:1]
    kernels = [layer for layer in reaching(network, image) if layer.kind == "W" and not layer.final]
    together = units(network, image)
    for layer in kernels:
        name: dict[str, str | int | bool] = {"variant": "joint", "layer": layer.layer, "module": layer.module}
        yield name, {tensor: source[tensor] for tensor in together[layer.module]}
    taken: dict[str, torch.Tensor] = {}
    for layer in kernels:
        taken |= {tensor: source[tensor] for tensor in together[layer.module]}
        yield {"variant": "cumulative", "layer": layer.layer, "module": layer.module}, dict(taken)
    yield {"variant": "reestimated", "layer": 0, "module": "none"}, reestimated(network, {}, training)
    for layer in kernels:
        change = {layer.tensor: source[layer.tensor]}
        name = {"variant": "reestimated", "layer": layer.layer, "module": layer.module}
        yield name, {**reestimated(network, change, training), **change}


def units(network: nn.Module, image: torch.Tensor) -> dict[str, list[str]]:
    """For each convolution its W and B, and RM and RV of the BN behind it: what describes one feature map.

    Where torch.fx cannot trace the network nothing is known to be behind a convolution, and W and B remain.

    Args:
        network: unchanged afterwards.
        image: any input of the right shape, ``[N, C, H, W]``.
    """
    try:
        behind = norms_behind(trace(network, image), network)
    except TracingError as e:
        log.warning("%s; W and B are swapped without the statistics behind them", e)
        behind = {}
    own = network.state_dict()
    found = {}
    for layer in inventory(network):
        if layer.kind == "W":
            names = [f"{layer.module}.{name}".removeprefix(".") for name in ("weight", "bias")]
            names += [f"{behind[layer.module]}.running_{n}" for n in ("mean", "var") if layer.module in behind]
            found[layer.module] = [name for name in names if name in own]
    return found
