"""The engine of a layer sweep: evaluate many one-layer changes of one network.

The plain way runs the whole network for each change. Here the network is traced once (torch.fx);
for each batch it runs once, its activations are kept, and a change of one module re-runs only what
lies downstream of it. The same operations see the same inputs, so on the CPU the answers are bit
for bit those of the plain way (a test holds this).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from prrmse.device import autocast
from prrmse.evaluate import Evaluation
from prrmse.layers import Layer
from prrmse.metrics import Counts, count


class Tape(fx.Interpreter):
    """A traced network that can re-run what depends on one of its modules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(fx.symbolic_trace(network))
        self.env: dict[fx.Node, Any] = {}
        self._order = list(self.graph.nodes)
        self._call_of = {node.target: node for node in self._order if node.op == "call_module"}
        self._downstream = {name: self._dependents(node) for name, node in self._call_of.items()}

    def _dependents(self, start: fx.Node) -> list[fx.Node]:
        """`start` and every node its value reaches, in order of execution."""
        reached = {start}
        for node in self._order:
            if any(argument in reached for argument in node.all_input_nodes):
                reached.add(node)
        return [node for node in self._order if node in reached]

    def record(self, image: torch.Tensor) -> torch.Tensor:
        """Run everything and keep every activation; the output."""
        self.args_iter = iter([image])
        self.env = {}
        for node in self._order:
            self.env[node] = self.run_node(node)
        return self._output(self.env)

    def rerun(self, module: str) -> torch.Tensor:
        """The output after `module` has changed; the recorded activations stay."""
        recorded, changed = self.env, dict(self.env)
        try:
            self.env = changed
            for node in self._downstream[module]:
                changed[node] = self.run_node(node)
            return self._output(changed)
        finally:
            self.env = recorded

    def _output(self, env: Mapping[fx.Node, Any]) -> torch.Tensor:
        return env[self._order[-1]]


@torch.inference_mode()
def sweep(
    network: nn.Module, source: Mapping[str, torch.Tensor], layers: Sequence[Layer], evaluation: Evaluation
) -> tuple[Counts, list[Counts]]:
    """Dice counts of the network, and with each pair taken, alone, from the source.

    Args:
        network: the target; unchanged afterwards.
        source: tensors by name, of the same shapes.
        layers: the pairs to swap, one at a time.
        evaluation: the slices to measure on.

    Returns:
        Counts ``[P, C]`` of the network itself, and of each swap in the order of ``layers``.

    Raises:
        ValueError: a source tensor is missing or has another shape (before anything runs).
    """
    own = network.state_dict()
    differs = [
        not torch.equal(_matching(source, own, layer).to(own[layer.tensor].device), own[layer.tensor])
        for layer in layers
    ]
    network = evaluation.place(copy.deepcopy(network))
    # What autocast would do anew for every swap: the kernels in the number format they are used in.
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.to(evaluation.dtype)
    own = network.state_dict()
    incoming = [source[layer.tensor].to(own[layer.tensor]) for layer in layers]
    shape = (len(evaluation.patients), evaluation.channels)
    totals = torch.zeros((1 + len(layers), 3, *shape), dtype=torch.int64, device=evaluation.device)
    tape = Tape(network)
    with autocast(evaluation.device, evaluation.dtype):
        for batch in evaluation.batches:
            unchanged = count(tape.record(batch.image).argmax(1), batch.label, batch.patient, shape)
            totals[0] += unchanged
            for i, layer in enumerate(layers):
                if not differs[i]:
                    totals[1 + i] += unchanged
                    continue
                tensor = own[layer.tensor]
                kept = tensor.clone()
                tensor.copy_(incoming[i])
                output = tape.rerun(layer.module)
                tensor.copy_(kept)
                totals[1 + i] += count(output.argmax(1), batch.label, batch.patient, shape)
    counts: np.ndarray = totals.cpu().numpy()
    return Counts(*counts[0]), [Counts(*c) for c in counts[1:]]


def _matching(source: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], layer: Layer) -> torch.Tensor:
    if layer.tensor not in source:
        raise ValueError(f"{layer.tensor}: not in the source")
    if source[layer.tensor].shape != own[layer.tensor].shape:
        shapes = f"{tuple(source[layer.tensor].shape)} != {tuple(own[layer.tensor].shape)}"
        raise ValueError(f"{layer.tensor}: shape of source and target differ: {shapes}")
    return source[layer.tensor]
