"""The steps a traced network is made of. A step is immutable: another tensor makes another step."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import fx, nn
from torch.nn import functional as F

from prrmse.engine.onednn import Activation, Convolution

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
        """Whether it is expensive, so that its value should be kept."""

    def run(self, values: Values) -> Any:
        """The step's value, from those of its inputs; never changes them."""

    def replaced(self, tensor: str, value: torch.Tensor) -> Step:
        """The same step with another value of one of its tensors (a name of the network's state)."""


@dataclass(frozen=True)
class Call:
    """A traced operation, done as the network does it.

    Args:
        node: of the graph of torch.fx.
        module: that it calls, if it calls one.
        constant: its value, if it reads an attribute or is an argument with a default.
    """

    node: fx.Node
    module: nn.Module | None = None
    constant: Any = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The values that its arguments name."""
        return tuple(node.name for node in self.node.all_input_nodes)

    @property
    def tensors(self) -> tuple[str, ...]:
        """What its module holds, or the attribute that it reads."""
        if self.node.op == "get_attr":
            return (str(self.node.target),)
        return tuple(f"{self.node.target}.{name}" for name in self.module.state_dict()) if self.module else ()

    @property
    def heavy(self) -> bool:
        """Whether it has parameters."""
        return any(True for _ in self.module.parameters()) if self.module else False

    def run(self, values: Values) -> Any:
        """Do it on these values."""
        if self.node.op in ("get_attr", "placeholder"):
            return self.constant
        args = fx.node.map_arg(self.node.args, lambda node: values[node.name])
        kwargs = fx.node.map_arg(self.node.kwargs, lambda node: values[node.name])
        if self.module is not None:
            return self.module(*args, **kwargs)
        if self.node.op == "call_method":
            return getattr(args[0], str(self.node.target))(*args[1:], **kwargs)
        if self.node.op == "output":
            return args[0]
        return self.node.target(*args, **kwargs)  # type: ignore[operator]

    def replaced(self, tensor: str, value: torch.Tensor) -> Call:
        """With a copy of its module that holds the value, or with another constant."""
        if self.module is None:
            return replace(self, constant=value)
        module = copy.deepcopy(self.module)
        name = tensor.removeprefix(f"{self.node.target}.")
        module.state_dict()[name].copy_(value)
        return replace(self, module=module)


@dataclass(frozen=True)
class Conv:
    """A 2D or 3D convolution of a part ``[first, last)`` of its input channels.

    Args:
        source: value that it reads, ``(N, I, ...)``; of a map that is resized first, the map before that.
        name: path of the module.
        kernel: the part's convolution, with what resizes the map; no bias, unless folded in.
        first, last: input channels of the module's weight.
        activation: folded in (`Affine.folded_into`), or None.
        added: value of the result's size that is added before the activation (`Sum.folded_into`), or None.
    """

    source: str
    name: str
    kernel: Convolution
    first: int
    last: int
    activation: Activation | None = None
    added: str | None = None
    heavy: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """The feature map, and what is added."""
        return (self.source,) if self.added is None else (self.source, self.added)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The weight."""
        return (f"{self.name}.weight",)

    def run(self, values: Values) -> torch.Tensor:
        """``(N, O, ...)``."""
        return self.kernel(values[self.source], self.activation, None if self.added is None else values[self.added])

    def replaced(self, tensor: str, value: torch.Tensor) -> Conv:  # noqa: ARG002 (it has one tensor)
        """With this part of another weight."""
        weight = value[:, self.first : self.last].to(self.kernel.weight)
        return replace(self, kernel=self.kernel.of(weight, swapped=True))


@dataclass(frozen=True)
class ConvThenResize:
    """A 1x1 convolution of a resized feature map, done before resizing: the two commute.

    Args:
        conv: the convolution; ``source`` is the map before resizing.
        resize: the operation, applied to the convolution's value.
    """

    conv: Conv
    resize: Call
    heavy: bool = True

    @property
    def inputs(self) -> tuple[str, ...]:
        """The map before resizing, and what else the resizing reads, such as a size."""
        return self.resize.inputs

    @property
    def tensors(self) -> tuple[str, ...]:
        """The convolution's."""
        return self.conv.tensors

    def run(self, values: Values) -> torch.Tensor:
        """``(N, O, H, W)``."""
        given = {name: values[name] for name in self.inputs}
        resized: torch.Tensor = self.resize.run({**given, self.conv.source: self.conv.run(given)})
        return resized

    def replaced(self, tensor: str, value: torch.Tensor) -> ConvThenResize:
        """With another weight of the convolution."""
        return replace(self, conv=self.conv.replaced(tensor, value))


@dataclass(frozen=True)
class Sum:
    """A sum of feature maps, and an activation after it if there is.

    Args:
        inputs: values of the sum's size, ``(N, O, ...)``; at least two.
        activation: the last, or None.
    """

    inputs: tuple[str, ...]
    activation: Activation | None = None
    tensors: tuple[str, ...] = ()
    heavy: bool = False

    def run(self, values: Values) -> torch.Tensor:
        """``(N, O, ...)``."""
        first, second, *others = (values[name] for name in self.inputs)
        total: torch.Tensor = first + second
        for value in others:
            total += value
        return self.activation(total) if self.activation else total

    def folded_into(self, conv: Conv, part: str) -> Conv | None:
        """The convolution whose value is a part, with the other part added; None if there are more than two."""
        if len(self.inputs) != 2:
            return None
        (other,) = (name for name in self.inputs if name != part)
        return replace(conv, added=other, activation=self.activation)

    def replaced(self, tensor: str, value: torch.Tensor) -> Sum:  # noqa: ARG002 (it has none)
        """Never asked for."""
        raise KeyError(tensor)


@dataclass(frozen=True)
class _AfterConvolution:
    """What alone reads the value of a convolution, with tensors of its own.

    Args:
        source: value of the convolution, ``(N, C, ...)``.
        state: float32 tensors ``(C,)`` by name.
    """

    source: str
    state: Mapping[str, torch.Tensor]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The convolution's value."""
        return (self.source,)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Those of the state."""
        return tuple(self.state)

    def replaced(self, tensor: str, value: torch.Tensor) -> Self:
        """With another value of one of its tensors."""
        return replace(self, state={**self.state, tensor: value.to(self.state[tensor])})


@dataclass(frozen=True)
class Affine(_AfterConvolution):
    """What follows a convolution: its bias, batch normalisation in evaluation mode, activation; each of them optional.

    Args:
        source, state: bias, running statistics, weight and bias of the normalisation, as far as there are.
        bias: name of the convolution's bias, or None.
        norm, eps: path of the normalisation, or None.
        activation: the last, or None.
    """

    bias: str | None
    norm: str | None
    eps: float
    activation: Activation | None
    heavy: bool = False

    def run(self, values: Values) -> torch.Tensor:
        """``(N, C, ...)``."""
        x: torch.Tensor = values[self.source]
        bias = self.state[self.bias] if self.bias else None
        if self.norm is None:
            y = x + bias.to(x.dtype).view(-1, *[1] * (x.ndim - 2)) if bias is not None else x
        else:
            mean, var, weight, shift = self._statistics()
            y = F.batch_norm(x, mean if bias is None else mean - bias, var, weight, shift, False, 0.0, self.eps)
        return y if self.activation is None else self.activation(y, inplace=y is not x)

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        var = self.state[f"{self.norm}.running_var"]
        one, zero = torch.ones_like(var), torch.zeros_like(var)
        mean, weight, shift = (
            self.state.get(f"{self.norm}.{name}", default)
            for name, default in (("running_mean", zero), ("weight", one), ("bias", zero))
        )
        return mean, var, weight, shift

    def parts(self, sources: Sequence[str]) -> list[Affine]:
        """The same of each of some values, whose sum is this one's: all scale, the first shifts, too; no activation."""
        scaling = {f"{self.norm}.running_var", f"{self.norm}.weight"}
        first = replace(self, source=sources[0], activation=None)
        scale = {name: value for name, value in self.state.items() if name in scaling}
        return [first, *(replace(first, source=source, state=scale, bias=None) for source in sources[1:])]

    def folded_into(self, conv: Conv, part: str) -> Conv:  # noqa: ARG002 (it reads one value)
        """The convolution that does both at once."""
        scale = None
        shift = bias = self.state[self.bias] if self.bias else None
        if self.norm is not None:
            mean, var, gain, offset = self._statistics()
            scale = gain / torch.sqrt(var + self.eps)
            shift = offset - scale * (mean if bias is None else mean - bias)
        shift = None if shift is None else shift.to(conv.kernel.weight.dtype)
        return replace(conv, kernel=conv.kernel.then(scale, shift), activation=self.activation)


@dataclass(frozen=True)
class InstanceNorm(_AfterConvolution):
    """What follows a convolution: instance normalisation by the image's own statistics, and an activation if there is.

    The means of channels-last values are sums over rows first, which is what a processor adds fastest: half to a third
    of the time of `torch.nn.functional.instance_norm`, which copies them into another memory format and leaves them in
    it. A bias before it changes nothing but what is rounded, so it is left out.

    Args:
        source, state: weight and bias of the normalisation, and the convolution's bias, as far as there are.
        norm, eps: path of the normalisation, and what is added to the variance.
        activation: the last, or None.
    """

    norm: str
    eps: float
    activation: Activation | None
    heavy: bool = False

    def run(self, values: Values) -> torch.Tensor:
        """``(N, C, ...)``."""
        x: torch.Tensor = values[self.source]
        last = x.movedim(1, -1)  # (N, ..., C)
        (images, rows), channels = last.shape[:2], last.shape[-1]
        count = last[0].numel() // channels

        def mean(y: torch.Tensor) -> torch.Tensor:
            return y.reshape(images, rows, -1).sum(1).view(images, -1, channels).sum(1, keepdim=True) / count

        y = last.reshape(images, count, channels)
        y = y - mean(y)
        # What rounding left of the mean: of a blank slice it is all there is, and becomes large by the scale.
        rest = mean(y)
        scale = torch.rsqrt((mean(y.square()) - rest.square()).clamp_(min=0) + self.eps)
        weight, bias = (self.state.get(f"{self.norm}.{name}") for name in ("weight", "bias"))
        if weight is not None:
            scale *= weight
        shift = -rest * scale if bias is None else bias - rest * scale
        y = torch.addcmul(shift, y, scale, out=y)
        y = y.view(last.shape).movedim(-1, 1)
        return y if self.activation is None else self.activation(y)


def folded(before: Step, step: Step, part: str) -> Step | None:
    """A convolution and what alone reads its value, which has this name, as one step, if they can be one."""
    if not isinstance(before, Conv | ConvThenResize) or not isinstance(step, Affine | Sum):
        return None
    conv = before if isinstance(before, Conv) else before.conv
    if conv.activation or conv.added:
        return None
    if isinstance(before, Conv):
        return step.folded_into(conv, part)
    # Behind what is resized afterwards only what commutes with resizing: a scale, and a constant, which it keeps.
    if isinstance(step, Sum) or step.activation:
        return None
    return replace(before, conv=step.folded_into(conv, part))
