"""The inventory of a network's reusable parameters: kind, layer number, module, tensor.

``W``, ``B`` are weight and bias of convolutions (1D to 3D, transposed, grouped), ``RM``, ``RV``, ``RW``, ``RB``
running mean, running variance, weight and bias of normalisations: batch, and as far as they have them, instance,
group and layer normalisation (the paper has batch normalisation only). Each kind is numbered from 1 in registration
order: so for a network of convolutions and BN, separately for convolutions (W), biased convolutions (B) and BN
layers. That this is the paper's order is a reconstruction [rec].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from prrmse.names import BN_KINDS, CONV_KINDS, KINDS, Layer

# Parameters and buffers by name, as in a ``state_dict``; NumPy's are `prrmse.nets.arrays.Arrays`.
State = Mapping[str, torch.Tensor]

CONVOLUTIONS = (nn.modules.conv._ConvNd,)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def inventory(network: nn.Module) -> list[Layer]:
    """Every (kind, layer) pair of a network, by kind, then by layer.

    A pair is ``final`` if it belongs to the convolution that maps to the outputs: that one is reported apart and never
    reused unless asked. It is ``network.final_name``, or else the convolution that is registered last, unless
    something else with parameters comes after it.
    """
    final = getattr(network, "final_name", None) or _last_convolution(network)
    found: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    for name, module in network.named_modules():
        for kind, attribute in _kinds_of(module).items():
            tensor = getattr(module, attribute, None)
            if tensor is None:
                continue
            number = len(found[kind]) + 1
            found[kind].append(Layer(kind, number, name, f"{name}.{attribute}", tensor.numel(), name == final))
    return [layer for kind in KINDS for layer in found[kind]]


def norm_eps(network: nn.Module) -> dict[str, float]:
    """``eps`` of every normalisation of a network, by module."""
    return {name: float(module.eps) for name, module in network.named_modules() if isinstance(module, NORMS)}


def _kinds_of(module: nn.Module) -> dict[str, str]:
    if isinstance(module, CONVOLUTIONS):
        return CONV_KINDS
    return BN_KINDS if isinstance(module, NORMS) else {}


def _last_convolution(network: nn.Module) -> str | None:
    own = [(name, module) for name, module in network.named_modules() if list(module.parameters(recurse=False))]
    return own[-1][0] if own and isinstance(own[-1][1], CONVOLUTIONS) else None


def inventory_of_state(state: State) -> list[Layer]:
    """The pairs of a checkpoint whose network is not at hand, told by the names and dimensions of its tensors.

    A module with a weight of three or more dimensions is a convolution, one with weight and bias of one dimension or
    with running statistics a normalisation; anything else (a linear layer, PReLU) has no pairs. None is known to be
    ``final``.
    """
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        module, _, attribute = name.rpartition(".")
        modules.setdefault(module, {})[attribute] = tensor
    found: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    for module, tensors in modules.items():
        weight = tensors.get("weight")
        if weight is not None and weight.ndim >= 3:
            kinds = CONV_KINDS
        elif "running_mean" in tensors or (weight is not None and weight.ndim == 1 and "bias" in tensors):
            kinds = BN_KINDS
        else:
            continue
        for kind, attribute in kinds.items():
            if attribute in tensors:
                name, number = f"{module}.{attribute}".lstrip("."), len(found[kind]) + 1
                found[kind].append(Layer(kind, number, module, name, tensors[attribute].numel(), False))
    return [layer for kind in KINDS for layer in found[kind]]


def swap(target: State, source: State, layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
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
        check_fits(source, target, layer.tensor)
        state[layer.tensor] = source[layer.tensor].clone()
    return state


def check_fits(source: State, target: State, tensor: str) -> None:
    """Raise ValueError if the source has no such tensor, or one of another shape than the target's."""
    if tensor not in source:
        raise ValueError(f"{tensor}: not in the source")
    if source[tensor].shape != target[tensor].shape:
        shapes = f"{tuple(source[tensor].shape)} != {tuple(target[tensor].shape)}"
        raise ValueError(f"{tensor}: shape of source and target differ: {shapes}")
