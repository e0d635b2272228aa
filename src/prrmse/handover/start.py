"""A start, and what to freeze of it, in a network that another program trains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from prrmse.data.reading import read_json
from prrmse.errors import InputError
from prrmse.learning.freeze import Freezing
from prrmse.nets.foreign import read_state
from prrmse.nets.layers import inventory, under_all_names


def apply_start(
    network: nn.Module, start: Mapping[str, torch.Tensor] | str | Path, freeze: Iterable[str] | str | Path = ()
) -> Frozen:
    """Load a start into a network and freeze what is listed, before the optimiser is made.

    Args:
        network: for which the start was written; before ``torch.compile``, DDP and their like wrap it.
        start: a state or a file, of `prrmse.api.warmstart`.
        freeze: the list beside it (``.json``), or names of tensors; nothing if left out.

    Returns:
        What keeps the frozen tensors at their value, and can release them.

    Raises:
        InputError: a tensor of the network is not in the start or has another shape, or the other way round; a tensor
            to freeze is not in the network.
    """
    own = network.state_dict()
    given = read_state(start) if isinstance(start, str | Path) else start
    state = under_all_names(own, given)
    if strange := sorted(own.keys() ^ state.keys()):
        there, lacking = ("network", "start") if strange[0] in own else ("start", "network")
        raise InputError(
            f"<start>: {strange[0]} is in the {there}, not in the {lacking}; write a start for this network"
        )
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)} in the start, {tuple(tensor.shape)} in the network"
            raise InputError(f"<start>: {name} is {shapes}; write a start for this network")
    frozen = Frozen(network, freeze)
    network.load_state_dict(state)
    return frozen


class Frozen:
    """Keeps tensors of a network at their value in any program's training, until `release`.

    What is frozen, and what becomes of running statistics, is as in `prrmse.learning.freeze.Freezing` (``both``). But
    programs call ``network.train()`` at every epoch, which would let the frozen statistics follow the batches again.
    Therefore each frozen normalisation is put into evaluation mode whenever it runs.

    A program that replaces normalisations (``convert_sync_batchnorm``) replaces these, too: freeze once more after it.

    Args:
        network: left in training mode.
        freeze: the list of `prrmse.api.warmstart` (``.json``), or names of tensors.
    """

    def __init__(self, network: nn.Module, freeze: Iterable[str] | str | Path) -> None:
        names = set(listed_tensors(freeze) if isinstance(freeze, str | Path) else freeze)
        layers = [layer for layer in inventory(network) if layer.tensor in names]
        if unknown := sorted(names - {layer.tensor for layer in layers}):
            raise InputError(f"<freeze>: names {unknown[0]}, which the network does not have")
        in_training = [module for module in network.train().modules() if module.training]
        Freezing(network, layers)
        self.names = sorted(names)
        self.parameters = [p for name, p in network.named_parameters(remove_duplicate=False) if name in names]
        for parameter in self.parameters:
            parameter.grad = None  # with a gradient of 0, decay and momentum would change it
        self._network = network
        self._norms = [module for module in in_training if not module.training]
        self._hooks = [norm.register_forward_pre_hook(_in_evaluation_mode) for norm in self._norms]

    def release(self) -> None:
        """Train everything from now on."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        for norm, hook in zip(self._norms, self._hooks, strict=True):
            hook.remove()
            norm.training = self._network.training


def _in_evaluation_mode(norm: nn.Module, _: object) -> None:
    norm.training = False  # not eval(): see `Freezing`


def listed_tensors(path: str | Path) -> list[str]:
    """The tensors that a list of `prrmse.api.warmstart` says to freeze."""
    found = read_json(Path(path), "name a list of prrmse warmstart")
    if not isinstance(found, dict) or not isinstance(found.get("frozen"), list):
        raise InputError(f"{path}: not a list of prrmse warmstart (it has no list `frozen`)")
    return [str(name) for name in found["frozen"]]
