"""The inventory of a network's reusable parameters: kind, layer number, module, tensor.

Kinds and numbering follow DESIGN sections 1 and 2: ``W``, ``B`` are weight and bias of convolutions,
``RM``, ``RV``, ``RW``, ``RB`` running mean, running variance, weight and bias of BN. Layers are
numbered from 1 in registration order, separately for convolutions (W), biased convolutions (B) and
BN layers. That this is the paper's order is a reconstruction [rec].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import nn

CONV_KINDS = {"W": "weight", "B": "bias"}
BN_KINDS = {"RM": "running_mean", "RV": "running_var", "RW": "weight", "RB": "bias"}
KINDS = (*CONV_KINDS, *BN_KINDS)


class Layer(NamedTuple):
    """One (kind, layer) pair: one tensor that can be reused."""

    kind: str
    layer: int
    module: str
    tensor: str
    scalars: int
    final: bool

    @property
    def pair(self) -> tuple[str, int]:
        return self.kind, self.layer


def inventory(network: nn.Module) -> list[Layer]:
    """Every (kind, layer) pair of a network, by kind, then by layer.

    A pair is ``final`` if it belongs to the convolution that maps to the outputs (``network.final_name``):
    that one is reported apart and never reused unless asked.
    """
    final = getattr(network, "final_name", None)
    found: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    for name, module in network.named_modules():
        for kind, attribute in _kinds_of(module).items():
            tensor = getattr(module, attribute)
            if tensor is None:
                continue
            number = len(found[kind]) + 1
            found[kind].append(Layer(kind, number, name, f"{name}.{attribute}", tensor.numel(), name == final))
    return [layer for kind in KINDS for layer in found[kind]]


def _kinds_of(module: nn.Module) -> dict[str, str]:
    if isinstance(module, nn.Conv2d):
        return CONV_KINDS
    if isinstance(module, nn.BatchNorm2d):
        return BN_KINDS
    return {}


def swap(target: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor], layers: Iterable[Layer]) -> dict:
    """The target's state with these layers' tensors taken from the source: R(target, source; S).

    Args:
        target, source: states by tensor name, of the same network.
        layers: the pairs S to take from the source.

    Returns:
        A new dict of cloned tensors: neither argument is aliased (a trap: ``state_dict`` returns views).

    Raises:
        ValueError: a tensor is missing in the source or has another shape; names it.
    """
    state = {name: tensor.clone() for name, tensor in target.items()}
    for layer in layers:
        if layer.tensor not in source:
            raise ValueError(f"{layer.tensor}: not in the source")
        if source[layer.tensor].shape != target[layer.tensor].shape:
            shapes = f"{tuple(source[layer.tensor].shape)} != {tuple(target[layer.tensor].shape)}"
            raise ValueError(f"{layer.tensor}: shape of source and target differ: {shapes}")
        state[layer.tensor] = source[layer.tensor].clone()
    return state
