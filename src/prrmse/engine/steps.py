"""The steps a traced network is made of. A step is immutable: another tensor makes another step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import fx
from torch.nn import functional as F

Values = Mapping[str, Any]


class Step(Protocol):
    """One operation of a network."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values it reads."""

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors of the network's state that it reads."""

    @property
    def heavy(self) -> bool:
        """Whether it is much work, so that its value is worth keeping."""

    def run(self, values: Values) -> Any:
        """The step's value, from those of its inputs; never changes them."""

    def replaced(self, tensor: str, value: torch.Tensor) -> Step:
        """The same step with another value of one of its tensors (a name of the network's state)."""


@dataclass(frozen=True)
class Call:
    """A traced operation, done as the network does it."""

    node: fx.Node
    module: Any = None  # nn.Module
    constant: Any = None

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.node.all_input_nodes)

    @property
    def tensors(self) -> tuple[str, ...]:
        if self.node.op == "get_attr":
            return (str(self.node.target),)
        return tuple(f"{self.node.target}.{name}" for name in self.module.state_dict()) if self.module else ()

    @property
    def heavy(self) -> bool:
        return any(True for _ in self.module.parameters()) if self.module else False

    def run(self, values: Values) -> Any:
        if self.node.op in ("get_attr", "placeholder"):
            return self.constant
        args = fx.node.map_arg(self.node.args, lambda node: values[node.name])
        kwargs = fx.node.map_arg(self.node.kwargs, lambda node: values[node.name])
        if self.node.op == "call_module":
            return self.module(*args, **kwargs)
        if self.node.op == "call_method":
            return getattr(args[0], str(self.node.target))(*args[1:], **kwargs)
        if self.node.op == "output":
            return args[0]
        return self.node.target(*args, **kwargs)  # type: ignore[operator]

    def replaced(self, tensor: str, value: torch.Tensor) -> Call:
        if self.module is None:
            return replace(self, constant=value)
        module = copy.deepcopy(self.module)
        name = tensor.removeprefix(f"{self.node.target}.")
        module.state_dict()[name].copy_(value)
        return replace(self, module=module)


@dataclass(frozen=True)
class Conv:
    """A 2D convolution of a part ``[first, last)`` of its input channels; no bias, unless folded in.

    ``weight``: ``[O, I, kH, kW]``, in the number format of the input.
    """

    source: str
    name: str
    weight: torch.Tensor
    first: int
    last: int
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    bias: torch.Tensor | None = None
    relu: bool = False
    heavy: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def tensors(self) -> tuple[str, ...]:
        return (f"{self.name}.weight",)

    def run(self, values: Values) -> torch.Tensor:
        x = values[self.source]
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return y.relu_() if self.relu else y

    def replaced(self, tensor: str, value: torch.Tensor) -> Conv:  # noqa: ARG002 (it has one tensor)
        part = value[:, self.first : self.last].to(self.weight)
        return replace(self, weight=part.contiguous(memory_format=torch.channels_last))


@dataclass(frozen=True)
class ConvOfResized:
    """A larger convolution of a resized map, from the map before resizing.

    Resizing is linear and the same for every channel, so the channels can be mixed first, where there are fewer
    pixels: ``y = sum over taps of shift_tap(resize(W_tap x))``. Resizing and shifting are one matrix for the rows
    (one per vertical tap, ``[H, h]``) and one for the columns (``[W, w * kW]``).
    """

    conv: Conv
    source: str
    rows: tuple[torch.Tensor, ...]
    columns: torch.Tensor
    taps: tuple[torch.Tensor, ...]
    heavy: bool = True

    @staticmethod
    def taps_of(weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """For each vertical tap, a 1x1 kernel ``[kW * O, I, 1, 1]``."""
        by_row = weight.permute(2, 3, 0, 1)  # [kH, kW, O, I]
        return tuple(row.reshape(-1, row.shape[-1], 1, 1).contiguous() for row in by_row)

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def tensors(self) -> tuple[str, ...]:
        return self.conv.tensors

    def run(self, values: Values) -> torch.Tensor:
        x = values[self.source]
        n, _, height, _ = x.shape
        total: torch.Tensor | None = None
        for rows, tap in zip(self.rows, self.taps, strict=True):
            mixed = F.conv2d(x, tap).permute(0, 2, 3, 1).reshape(n, height, -1)  # [N, h, w * kW * O]
            rows = rows.expand(n, -1, -1)
            total = torch.bmm(rows, mixed) if total is None else total.baddbmm_(rows, mixed)
        assert total is not None
        wide, high = self.columns.shape[1], self.rows[0].shape[0]
        y = torch.bmm(self.columns.expand(n * high, -1, -1), total.view(n * high, wide, -1))
        return y.view(n, high, self.columns.shape[0], -1).permute(0, 3, 1, 2)

    def replaced(self, tensor: str, value: torch.Tensor) -> ConvOfResized:
        conv = self.conv.replaced(tensor, value)
        return replace(self, conv=conv, taps=self.taps_of(conv.weight))


@dataclass(frozen=True)
class ResizedConv:
    """A 1x1 convolution of a resized map, done before resizing: the two commute."""

    conv: Conv
    resize: Call
    heavy: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.resize.inputs

    @property
    def tensors(self) -> tuple[str, ...]:
        return self.conv.tensors

    def run(self, values: Values) -> torch.Tensor:
        given = {name: values[name] for name in self.inputs}
        return self.resize.run({**given, self.conv.source: self.conv.run(given)})

    def replaced(self, tensor: str, value: torch.Tensor) -> ResizedConv:
        return replace(self, conv=self.conv.replaced(tensor, value))


@dataclass(frozen=True)
class Sum:
    """The sum of the parts of a convolution over concatenated maps."""

    parts: tuple[str, ...]
    tensors: tuple[str, ...] = ()
    heavy: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.parts

    def run(self, values: Values) -> torch.Tensor:
        total = values[self.parts[0]] + values[self.parts[1]]
        for part in self.parts[2:]:
            total += values[part]
        return total

    def replaced(self, tensor: str, value: torch.Tensor) -> Sum:  # noqa: ARG002 (it has none)
        raise KeyError(tensor)


@dataclass(frozen=True)
class Affine:
    """What follows a convolution: its bias, batch normalisation in evaluation mode, ReLU; each of them optional.

    ``state`` holds float32 tensors by name.
    """

    source: str
    state: Mapping[str, torch.Tensor]
    bias: str | None
    norm: str | None
    eps: float
    relu: bool
    heavy: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(self.state)

    def run(self, values: Values) -> torch.Tensor:
        x = values[self.source]
        bias = self.state[self.bias] if self.bias else None
        if self.norm is None:
            y = x + bias.to(x.dtype).view(-1, 1, 1) if bias is not None else x
        else:
            mean, var, weight, shift = self._statistics()
            y = F.batch_norm(x, mean if bias is None else mean - bias, var, weight, shift, False, 0.0, self.eps)
        if not self.relu:
            return y
        return y.relu() if y is x else y.relu_()

    def _statistics(self) -> tuple[torch.Tensor, ...]:
        mean, var = self.state[f"{self.norm}.running_mean"], self.state[f"{self.norm}.running_var"]
        one, zero = torch.ones_like(mean), torch.zeros_like(mean)
        return mean, var, self.state.get(f"{self.norm}.weight", one), self.state.get(f"{self.norm}.bias", zero)

    def replaced(self, tensor: str, value: torch.Tensor) -> Affine:
        return replace(self, state={**self.state, tensor: value.to(self.state[tensor])})

    def folded_into(self, conv: Conv) -> Conv:
        """The convolution that does both at once."""
        scale, shift = torch.ones((), device=conv.weight.device), None
        bias = self.state[self.bias] if self.bias else None
        if self.norm is not None:
            mean, var, weight, offset = self._statistics()
            scale = weight / torch.sqrt(var + self.eps)
            shift = offset - scale * (mean if bias is None else mean - bias)
        elif bias is not None:
            shift = bias
        weight = (conv.weight.float() * scale.view(-1, 1, 1, 1)).to(conv.weight.dtype)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return replace(conv, weight=weight, bias=None if shift is None else shift.to(weight.dtype), relu=self.relu)
