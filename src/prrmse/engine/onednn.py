"""Convolutions by oneDNN, the CPU library of torch, with weights that are packed once (oneDNN: weights reordering).

`torch.nn.functional.conv2d` packs the weights anew in each call, which for wide layers and few slices takes up to a
quarter of the time. The operations here are those that torch's compiler calls and have no public name, so wherever
they are missing the public function takes their place.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import torch
from torch.nn import functional as F

from prrmse.engine.winograd import Winograd, transformed
from prrmse.learning.evaluate import layout_of

# By the dimensions of the weight.
PACK: dict[int, Any] = {n + 2: getattr(torch._C._nn, f"mkldnn_reorder_conv{n}d_weight", None) for n in (2, 3)}
FUNCTIONAL: dict[int, Any] = {4: F.conv2d, 5: F.conv3d}
CONVOLVE: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
# What it can do after adding another tensor.
AFTER_A_SUM = {None, "relu"}

FUNCTIONS: dict[str, Any] = {
    "relu": F.relu,
    "hardtanh": F.hardtanh,
    "leaky_relu": F.leaky_relu,
    "swish": F.silu,
    "hardswish": F.hardswish,
}


@dataclass(frozen=True)
class Activation:
    """An elementwise function that oneDNN can do at the end of a convolution.

    Args:
        name: of `FUNCTIONS`, as oneDNN calls it.
        scalars: what it takes beside the tensor.
    """

    name: str
    scalars: tuple[float, ...] = ()

    def __call__(self, x: torch.Tensor, *, inplace: bool = True) -> torch.Tensor:
        """Of each value; ``inplace``: in the place of them."""
        y: torch.Tensor = FUNCTIONS[self.name](x, *self.scalars, inplace=inplace)
        return y


@dataclass(eq=False)
class Convolution:
    """A 2D or 3D convolution of many inputs of about one size: its tensors, and how it is done.

    Args:
        weight: ``(O, I, kH, kW)`` or ``(O, I, kD, kH, kW)``, in the dtype of the inputs.
        bias: ``(O,)``, or None.
        stride, padding, dilation, groups: as `torch.nn.functional.conv2d` takes them.
        winograd: the transforms by which it is done, or None.
        swapped: whether the weight is that of a swap, of which there are many and each runs once for a batch, so that
            what is prepared of it is not kept.
        scale: ``(O,)``, by which the weight is to be multiplied, or None.
        unscaled: the same without a scale, with which it shares what is prepared; or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] | str = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1
    winograd: Winograd | None = None
    swapped: bool = False
    scale: torch.Tensor | None = None
    unscaled: Convolution | None = None
    _prepared: Any = field(default=None, init=False, repr=False)

    def of(self, weight: torch.Tensor, *, swapped: bool = False) -> Self:
        """The same of another weight, which is put into the memory format that is fastest; without a bias."""
        weight = weight.contiguous(memory_format=layout_of(weight.ndim))
        return replace(self, weight=weight, bias=None, swapped=swapped, scale=None, unscaled=None)

    def then(self, scale: torch.Tensor | None, shift: torch.Tensor | None) -> Self:
        """The same with its outputs multiplied by the one and moved by the other, ``(O,)`` each; shares the weight."""
        return replace(self, bias=shift, scale=scale, unscaled=self)

    def scaled(self) -> torch.Tensor:
        """The weight of which the outputs are multiplied already."""
        if self.scale is None:
            return self.weight
        scale = self.scale.view(-1, *[1] * (self.weight.ndim - 1))
        return (self.weight.float() * scale).to(self.weight.dtype)

    def __call__(
        self, x: torch.Tensor, activation: Activation | None = None, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(N, I, ...)`` to ``(N, O, ...)``; then another tensor of that size is added, then comes the activation."""
        bias, geometry = self.bias, (self.padding, self.stride, self.dilation, self.groups)
        if self.winograd is not None:
            y = self.winograd.run(x, self._weight(x), bias, self.scale)
        elif (weight := self._weight(x)).is_mkldnn:
            name, scalars = (activation.name, list(activation.scalars)) if activation else (None, [])
            if added is None:
                return cast("torch.Tensor", CONVOLVE(x, weight, bias, *geometry, name or "none", scalars, ""))
            if x.ndim == 4 and name in AFTER_A_SUM:
                fused = CONVOLVE.binary(x, added, weight, bias, *geometry, "add", None, name, scalars, "")
                return cast("torch.Tensor", fused)
            y = CONVOLVE(x, weight, bias, *geometry, "none", [], "")
        else:
            y = FUNCTIONAL[x.ndim](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        if added is not None:
            y += added
        return activation(y) if activation else y

    @property
    def _scales_outputs(self) -> bool:
        """Whether the scale is not in what is prepared of the weight."""
        return self.winograd is not None

    def _weight(self, x: torch.Tensor) -> Any:
        """What `_prepare` makes of it for inputs like this one, of most weights once."""
        if self.unscaled is not None and (self.scale is None or self._scales_outputs):
            return self.unscaled._weight(x)
        prepared = self._prepare(x) if self._prepared is None else self._prepared
        if not self.swapped:
            self._prepared = prepared
        return prepared

    def _prepare(self, x: torch.Tensor) -> Any:
        """The weight as it is used: transformed, packed, or as it is."""
        if self.winograd is not None:
            return transformed(self.weight)
        weight = self.scaled()
        known = PACK[weight.ndim] is not None and CONVOLVE is not None and not isinstance(self.padding, str)
        if known and (weight.device.type, weight.dtype) == ("cpu", torch.float32):
            geometry = self.padding, self.stride, self.dilation, self.groups
            with contextlib.suppress(RuntimeError):  # another kind of processor, a torch without oneDNN
                packed: torch.Tensor = PACK[weight.ndim](weight.to_mkldnn(), *geometry, list(x.shape))
                return packed
        return weight
