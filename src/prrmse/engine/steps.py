"""The steps a traced network is made of. A step is immutable: another tensor makes another step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import fx
from torch.nn import functional as F

from prrmse.engine.onednn import Convolution
from prrmse.engine.winograd import Winograd

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
    winograd: Winograd | None = None
    heavy: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def tensors(self) -> tuple[str, ...]:
        return (f"{self.name}.weight",)

    @cached_property
    def _convolution(self) -> Convolution:
        if self.winograd is not None:
            return self.winograd.convolution(self.weight, self.bias)
        return Convolution(self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups, self.relu)

    def run(self, values: Values) -> torch.Tensor:
        x = values[self.source]
        if self.winograd is None:
            return self._convolution(x)
        y = self.winograd.run(x, self._convolution)
        return y.relu_() if self.relu else y

    def replaced(self, tensor: str, value: torch.Tensor) -> Conv:  # noqa: ARG002 (it has one tensor)
        part = value[:, self.first : self.last].to(self.weight)
        return replace(self, weight=part.contiguous(memory_format=torch.channels_last))

    def after(self, before: Conv) -> Conv | None:
        """Both as one convolution, if that is less work: this one mixes channels only, with nothing between them."""
        mixes = self.weight.shape[2:] == (1, 1) and set(self.stride) == {1} and self.padding in ((0, 0), "valid")
        if not mixes or before.relu or self.groups != 1 or before.groups != 1:
            return None
        mixing = self.weight[:, :, 0, 0].double()
        outside, inside = len(mixing), before.weight[0].numel()
        if outside * inside >= before.weight.numel() + mixing.numel():
            return None
        weight = torch.einsum("om,mikl->oikl", mixing, before.weight.double()).to(self.weight.dtype)
        bias = self.bias
        if before.bias is not None:
            mixed = (mixing @ before.bias.double()).to(self.weight.dtype)
            bias = mixed if bias is None else mixed + bias
        weight = weight.contiguous(memory_format=torch.channels_last)
        return replace(before, weight=weight, bias=bias, relu=self.relu)


@dataclass(frozen=True)
class ConvOfResized:
    """A larger convolution of a resized map, from the map before resizing.

    Resizing is linear and the same for every channel, so the channels can be mixed first, where there are fewer
    pixels: ``y = sum over taps of shift_tap(resize(W_tap x))``. Resizing and shifting are one matrix for the columns
    (``[W, w * kW]``) and one for the rows (``[H, kH * h]``).
    """

    conv: Conv
    source: str
    rows: torch.Tensor
    columns: torch.Tensor
    heavy: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def tensors(self) -> tuple[str, ...]:
        return self.conv.tensors

    @cached_property
    def _taps(self) -> Convolution:
        """All taps as one 1x1 convolution to ``kW * kH * O`` channels."""
        taps = self.conv.weight.permute(3, 2, 0, 1).flatten(0, 2)  # [kW * kH * O, I]
        return Convolution(taps[:, :, None, None].contiguous(), None)

    def run(self, values: Values) -> torch.Tensor:
        x = values[self.source]
        (n, _, h, _), (outside, _, kernel, _) = x.shape, self.conv.weight.shape
        (wide, by_column), (high, by_row) = self.columns.shape, self.rows.shape
        mixed = self._taps(x).permute(0, 2, 3, 1).reshape(n * h, by_column, -1)  # [N * h, w * kW, kH * O]
        y = torch.bmm(self.columns.expand(n * h, -1, -1), mixed).view(n, h, wide, kernel, outside)
        y, rows = y.permute(0, 3, 1, 2, 4).reshape(n, by_row, -1), self.rows.expand(n, -1, -1)  # [N, kH * h, W * O]
        bias = self.conv.bias
        y = torch.bmm(rows, y) if bias is None else torch.baddbmm(bias.repeat(wide).expand(1, high, -1), rows, y)
        y = y.view(n, high, wide, -1).permute(0, 3, 1, 2)
        return y.relu_() if self.conv.relu else y

    def replaced(self, tensor: str, value: torch.Tensor) -> ConvOfResized:
        return replace(self, conv=self.conv.replaced(tensor, value))


@dataclass(frozen=True)
class ResizedConv:
    """A 1x1 convolution of a resized map, done before resizing: the two commute.

    ``axes``: resizing of rows ``[H, h]`` and of columns ``[W, w]``.
    """

    conv: Conv
    resize: Call
    axes: tuple[torch.Tensor, torch.Tensor]
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
    """The sum of the parts of a convolution over concatenated maps.

    Args:
        parts: values of the sum's size ``[N, O, H, W]``.
        small: values that are resized first, all at once, by ``resizing`` ``[H * W, their pixels side by side]``.
        shape: (H, W).
    """

    parts: tuple[str, ...]
    small: tuple[str, ...]
    resizing: torch.Tensor
    shape: tuple[int, int]
    tensors: tuple[str, ...] = ()
    heavy: bool = False

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*self.parts, *self.small)

    def run(self, values: Values) -> torch.Tensor:
        large = [values[part] for part in self.parts]
        total = large[0] if len(large) == 1 else None
        if len(large) > 1:
            total = large[0] + large[1]
            for value in large[2:]:
                total += value
        if not self.small:
            assert total is not None
            return total
        pixels = torch.cat([self._pixels(values[part]) for part in self.small], dim=1)
        resizing = self.resizing.expand(len(pixels), -1, -1)
        if total is None:
            made = torch.bmm(resizing, pixels)
        else:
            made = torch.baddbmm(self._pixels(total).to(pixels.dtype), resizing, pixels)
        return made.view(len(made), *self.shape, -1).permute(0, 3, 1, 2)

    @staticmethod
    def _pixels(value: torch.Tensor) -> torch.Tensor:
        """``[N, O, H, W]`` as ``[N, H * W, O]``."""
        return value.permute(0, 2, 3, 1).flatten(1, 2)

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


def folded(before: Step, step: Step) -> Step | None:
    """A convolution and what alone reads its value as one step, if they can be one and are less work so."""
    if isinstance(before, ConvOfResized) and isinstance(step, Affine):
        return replace(before, conv=step.folded_into(before.conv))
    if isinstance(before, Conv) and isinstance(step, Affine):
        return step.folded_into(before)
    return step.after(before) if isinstance(before, Conv) and isinstance(step, Conv) else None
