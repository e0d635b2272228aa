"""Align a network to another by permuting its channels, which leaves its function as it is.

The channels of a hidden layer have no order: permute the kernels that make them and those that read them, and the
network computes the same. Two kernels can be compared only after such an alignment. Weight matching: Ainsworth, Hayase
and Srinivasa 2023 (Git Re-Basin), algorithm 1; which axes belong together is read from the traced network, with adding
and concatenating connections (ours, not the paper's).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn import functional as F

from prrmse.engine.program import CONVOLVING, attributes_of
from prrmse.engine.steps import Call
from prrmse.engine.trace import trace
from prrmse.nets.layers import NORMS, State

# Channels of a value, in order: (group, how many of it).
Layout = tuple[tuple[str, int], ...]

ADDING: set[object] = {operator.add, operator.sub, operator.mul, torch.add, torch.mul, "add", "mul"}
JOINING: set[object] = {torch.cat, torch.concat}
# What treats all channels alike.
ALIKE: set[object] = {
    F.relu,
    F.relu6,
    F.leaky_relu,
    F.silu,
    F.gelu,
    F.interpolate,
    F.max_pool2d,
    F.avg_pool2d,
    F.adaptive_avg_pool2d,
}
ALIKE |= {F.dropout, torch.relu, torch.sigmoid, torch.tanh, "relu", "contiguous", "sigmoid", "tanh"}
ALIKE_MODULES = (
    nn.ReLU, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Upsample,
    nn.modules.dropout._DropoutNd, nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
)  # fmt: skip


class Axis(NamedTuple):
    """An axis of a tensor whose entries are channels."""

    tensor: str
    axis: int
    layout: Layout


class Channels(NamedTuple):
    """Which axes of a network's tensors carry which group of channels.

    ``axes``: all of them. ``size``: channels of each group that may be permuted; inputs and outputs may not.
    """

    axes: list[Axis]
    size: dict[str, int]


def channels_of(network: nn.Module, image: torch.Tensor) -> Channels:
    """Read from the traced network which axes belong together.

    Args:
        network: whose forward pass torch.fx can trace; unchanged afterwards.
        image: any input of the right shape.

    Raises:
        TracingError: it cannot be traced.
    """
    return _Reader(network, image).result()


class _Kernel(NamedTuple):
    """A convolution: names of its tensors, and how it joins channels."""

    weight: str
    bias: str | None
    inputs: int
    outputs: int
    groups: int
    transposed: bool


class _Reader:
    """Follows the channels through the network; groups that meet in a sum become one."""

    def __init__(self, network: nn.Module, image: torch.Tensor) -> None:
        program = trace(network, image)
        with torch.no_grad():
            self.outline = program.outline(image)
        self.axes: list[Axis] = []
        self.parent: dict[str, str] = {}
        self.size: dict[str, int] = {}
        self.fixed: set[str] = set()
        self.layout: dict[str, Layout] = {program.image: self._new(program.image, image.shape[1], fixed=True)}
        for name, step in program.steps.items():
            assert isinstance(step, Call)
            self._read(name, step)
        self._fix(program.steps[program.output].inputs)

    def result(self) -> Channels:
        axes = [Axis(a.tensor, a.axis, tuple((self._root(g), n) for g, n in a.layout)) for a in self.axes]
        fixed = {self._root(group) for group in self.fixed}
        free = {g: n for g, n in self.size.items() if self._root(g) == g and g not in fixed}
        return Channels(axes, free)

    def _read(self, name: str, call: Call) -> None:
        value = self.outline[name]
        if not isinstance(value, torch.Tensor) or value.ndim < 2:
            self._fix(call.inputs)
            return
        inputs = [source for source in call.inputs if source in self.layout]
        target = call.node.target
        if (kernel := self._kernel(call)) is not None:
            self.layout[name] = self._convolution(name, kernel, inputs[0])
        elif (tensors := _norm_tensors(call)) is not None:
            layout = self.layout[name] = self.layout[inputs[0]]
            for tensor in tensors:
                self._carries(tensor, 0, layout)
        elif _is_alike(call, value.ndim):
            self.layout[name] = self.layout[inputs[0]]
        elif call.module is None and target in ADDING and len(inputs) == 2:
            self.layout[name] = self._tie(*(self.layout[source] for source in inputs))
        elif call.module is None and target in ADDING and len(inputs) == 1:
            self.layout[name] = self.layout[inputs[0]]
        elif (joined := _joined(call, value.ndim)) and all(part in self.layout for part in joined):
            self.layout[name] = sum((self.layout[part] for part in joined), ())
        else:  # something unknown: what enters and leaves it keeps its order
            self._fix(inputs)
            self.layout[name] = self._new(name, value.shape[1], fixed=True)

    def _kernel(self, call: Call) -> _Kernel | None:
        module, path = call.module, str(call.node.target)
        if isinstance(module, nn.modules.conv._ConvNd):
            bias = None if module.bias is None else f"{path}.bias"
            channels = module.in_channels, module.out_channels
            return _Kernel(f"{path}.weight", bias, *channels, module.groups, module.transposed)
        if call.node.target not in CONVOLVING or not (tensors := attributes_of(call)):
            return None
        given = call.node.args
        groups = call.node.kwargs.get("groups", given[6] if len(given) > 6 else 1)
        assert isinstance(groups, int)
        out, into = self.outline[call.node.all_input_nodes[1].name].shape[:2]
        return _Kernel(tensors[0], tensors[1] if len(tensors) > 1 else None, into * groups, out, groups, False)

    def _convolution(self, name: str, kernel: _Kernel, source: str) -> Layout:
        before = self.layout[source]
        if kernel.groups == 1:
            after = self._new(name, kernel.outputs)
            into, out = (1, 0) if not kernel.transposed else (0, 1)
            self._carries(kernel.weight, into, before)
            self._carries(kernel.weight, out, after)
        elif kernel.groups == kernel.inputs == kernel.outputs:
            after = before
            self._carries(kernel.weight, 0, after)
        else:
            self._fix([source])
            after = self._new(name, kernel.outputs, fixed=True)
        if kernel.bias is not None:
            self._carries(kernel.bias, 0, after)
        return after

    def _carries(self, tensor: str, axis: int, layout: Layout) -> None:
        """Note an axis; of a tensor that is used again the channels are those of before."""
        known = next((a.layout for a in self.axes if (a.tensor, a.axis) == (tensor, axis)), None)
        if known is None:
            self.axes.append(Axis(tensor, axis, layout))
        else:
            self._tie(known, layout)

    def _new(self, name: str, size: int, *, fixed: bool = False) -> Layout:
        self.parent[name], self.size[name] = name, size
        if fixed:
            self.fixed.add(name)
        return ((name, size),)

    def _fix(self, names: Iterable[str]) -> None:
        self.fixed.update(group for name in names for group, _ in self.layout.get(name, ()))

    def _tie(self, a: Layout, b: Layout) -> Layout:
        if [n for _, n in a] == [n for _, n in b]:
            for (x, _), (y, _) in zip(a, b, strict=True):
                self.parent[self._root(y)] = self._root(x)
                if {x, y} & self.fixed:
                    self.fixed |= {x, y, self._root(x)}
            return a
        self.fixed.update(group for group, _ in (*a, *b))
        return a

    def _root(self, group: str) -> str:
        while self.parent[group] != group:
            group = self.parent[group]
        return group


def _norm_tensors(call: Call) -> list[str] | None:
    """The tensors of a normalisation that has one of everything for each channel, or None."""
    if isinstance(call.module, NORMS) and not isinstance(call.module, nn.GroupNorm | nn.LayerNorm):
        return [f"{call.node.target}.{name}" for name in call.module.state_dict() if name != "num_batches_tracked"]
    return attributes_of(call) if call.node.target is F.batch_norm else None


def _joined(call: Call, dimensions: int) -> list[str]:
    """The values, of so many dimensions, that it puts behind each other along the channels; none if it does not."""
    if call.module is not None or call.node.target not in JOINING:
        return []
    given = {**dict(zip(("tensors", "dim"), call.node.args, strict=False)), **call.node.kwargs}
    if given.get("dim", 0) not in (1, 1 - dimensions) or not isinstance(given["tensors"], Sequence):
        return []
    return [str(value) for value in given["tensors"]]  # one may be in it twice


def _is_alike(call: Call, dimensions: int) -> bool:
    """Whether it does the same to every channel of a value of so many dimensions."""
    if call.module is not None:
        return isinstance(call.module, ALIKE_MODULES)
    if call.node.target is F.pad:  # of the last axes, two numbers each
        widths = call.node.kwargs.get("pad", (*call.node.args, ())[1])
        return isinstance(widths, Sequence) and len(widths) <= 2 * (dimensions - 2)
    return call.node.target in ALIKE


def permute(state: State, channels: Channels, order: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state with the channels of each group in another order: the same function.

    Args:
        state: of the network.
        channels: of the network.
        order: for each free group, a permutation of its channels, ``[n]``: new channel i is the old ``order[i]``.
    """
    permuted = {name: tensor.clone() for name, tensor in state.items()}
    for axis in channels.axes:
        index = torch.from_numpy(_index(axis.layout, order))
        permuted[axis.tensor] = permuted[axis.tensor].index_select(axis.axis, index)
    return permuted


def random_order(channels: Channels, seed: int) -> dict[str, np.ndarray]:
    """A random permutation of every free group."""
    rng = np.random.default_rng(seed)
    return {group: rng.permutation(size) for group, size in channels.size.items()}


def match(target: State, source: State, channels: Channels, seed: int, rounds: int = 50) -> dict[str, np.ndarray]:
    """The order of the source's channels in which its weights agree best with the target's (weight matching).

    One group after the other, in random order, is assigned optimally given all others, until nothing changes. A local
    optimum: another seed may end elsewhere. Every kernel counts the same, whatever its norm, and only kernels count
    (ours: biases and BN vectors say little about which channel is which, yet a few large entries would decide).

    Args:
        target, source: states of the network.
        channels: of the network.
        seed: of the order in which groups are visited.
        rounds: at most.
    """
    rng = np.random.default_rng(seed)
    order = {group: np.arange(size) for group, size in channels.size.items()}
    weights = {a.tensor for a in channels.axes if target[a.tensor].ndim > 1}
    of_tensor: dict[str, list[Axis]] = {}
    for axis in channels.axes:
        if axis.tensor in weights:
            of_tensor.setdefault(axis.tensor, []).append(axis)
    own, other = (
        {name: state[name].double() / state[name].double().norm().clamp_min(1e-30) for name in weights}
        for state in (target, source)
    )
    touching = {g: [a for name in of_tensor for a in of_tensor[name] if g in dict(a.layout)] for g in order}
    for _ in range(rounds):
        changed = False
        for group in rng.permutation(sorted(order)):
            parts = [_agreement(own, other, a, of_tensor[a.tensor], group, order) for a in touching[group]]
            agreement = np.sum(parts, axis=0)
            rows, found = linear_sum_assignment(agreement, maximize=True)
            before, after = agreement[rows, order[group]].sum(), agreement[rows, found].sum()
            if after > before + 1e-9 * abs(before):
                order[group], changed = found, True
        if not changed:
            break
    return order


def _agreement(
    own: State, other: State, axis: Axis, axes: Sequence[Axis], group: str, order: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Inner products ``[n, n]`` of the target's channels i and the source's j, other axes in their present order."""
    a, b = own[axis.tensor], other[axis.tensor]
    for another in axes:
        if another.axis != axis.axis:
            b = b.index_select(another.axis, torch.from_numpy(_index(another.layout, order)))
    sizes = [size for name, size in axis.layout if name == group]
    total, start = np.zeros((sizes[0], sizes[0])), 0
    for name, size in axis.layout:
        if name == group:
            x, y = (t.narrow(axis.axis, start, size).movedim(axis.axis, 0).reshape(size, -1) for t in (a, b))
            total += (x @ y.T).numpy()
        start += size
    return total


def _index(layout: Layout, order: Mapping[str, np.ndarray]) -> np.ndarray:
    parts, start = [], 0
    for group, size in layout:
        parts.append(start + order.get(group, np.arange(size)))
        start += size
    return np.concatenate(parts)
