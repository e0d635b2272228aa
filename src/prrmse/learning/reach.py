"""Which tensors of a network take part in its output: heads of deep supervision and auxiliary classifiers do not."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from prrmse.learning.evaluate import output_of
from prrmse.names import Layer
from prrmse.nets.layers import inventory, replaced

log = logging.getLogger(__name__)


def without_effect(network: nn.Module, tensors: Iterable[str], *inputs: Any, **named: Any) -> set[str]:
    """Those tensors of a network's state that cannot change its output (`output_of`), whatever their values.

    A parameter takes part if it is in the output's autograd graph; so does a buffer of a module whose parameters are.
    What is not found so (a detached branch, a buffer of a module without parameters) is changed, alone, to see whether
    the output changes.

    Args:
        network: run in evaluation mode, without a backward pass and without keeping activations; unchanged afterwards.
        tensors: names, one of each tensor's.
        inputs, named: of its ``forward``, on any device; a single image is enough.
    """
    device = next(iter(network.state_dict().values())).device
    with torch.inference_mode(False), _evaluation_mode(network):
        # Clones: a tensor of inference mode cannot be in a graph.
        inputs, named = pytree.tree_map_only(torch.Tensor, lambda x: x.detach().clone().to(device), (inputs, named))
        inside = _in_graph(network, inputs, named)
        undecided = [name for name in tensors if not inside.intersection(_siblings(network, name))]
        if not undecided:
            return set()
        with torch.no_grad():
            own, draws = network.state_dict(), torch.Generator().manual_seed(0)
            output = output_of(network(*inputs, **named)).clone()
            found = set()
            for name in undecided:
                with replaced(network, {name: _other(own[name], draws)}):
                    if _equal(output_of(network(*inputs, **named)), output):
                        found.add(name)
    return found


def ineffective_pairs(network: nn.Module, *inputs: Any, **named: Any) -> set[str]:
    """The tensors of a network's pairs that cannot change its output; arguments as `without_effect`."""
    return without_effect(network, [layer.tensor for layer in inventory(network)], *inputs, **named)


def reaching(network: nn.Module, *inputs: Any, **named: Any) -> list[Layer]:
    """The pairs of a network without those that cannot change its output; arguments as `without_effect`."""
    ineffective = ineffective_pairs(network, *inputs, **named)
    if ineffective:
        log.info("these do not reach the output: %s", ", ".join(sorted(ineffective)))
    return [layer for layer in inventory(network, ineffective) if layer.tensor not in ineffective]


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _in_graph(network: nn.Module, inputs: Collection[Any], named: Mapping[str, Any]) -> set[int]:
    """The ids of the parameters that the output's autograd graph ends in."""
    parameters = [p for p in network.parameters() if p.is_floating_point()]
    wanted = [p.requires_grad for p in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        # The graph is only walked, so that nothing of what a backward pass would need is kept.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_nothing, _nothing):
            output = output_of(network(*inputs, **named))
        nodes, seen, found = [output.grad_fn], set(), set()
        while nodes:
            node = nodes.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                found.add(id(node.variable))
            nodes += [following for following, _ in node.next_functions]
        return found
    finally:
        for parameter, before in zip(parameters, wanted, strict=True):
            parameter.requires_grad_(before)


def _nothing(_: torch.Tensor) -> torch.Tensor:
    return torch.empty(0)


def _siblings(network: nn.Module, name: str) -> set[int]:
    """Of a parameter its id; of a buffer the ids of the parameters in its module."""
    path, _, attribute = name.rpartition(".")
    module = network.get_submodule(path)
    own = module._parameters.get(attribute)
    return {id(p) for p in ([own] if own is not None else module._parameters.values()) if p is not None}


def _other(value: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
    """Other values, each larger; so variances stay positive."""
    return value + value.abs() + 0.5 + torch.rand(value.shape, generator=draws).to(value)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
