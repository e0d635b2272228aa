"""Convolutions by oneDNN, the CPU library of torch, with weights that are packed once (oneDNN: weights reordering).

`torch.nn.functional.conv2d` packs the weights anew in each call, which for wide layers and few slices takes up to a
quarter of the time. The operations here are those that torch's compiler calls and have no public name, so wherever
they are missing the public function takes their place.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, cast

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


class Convolution:
    """A 2D or 3D convolution of many inputs of about one size: its tensors, and how it is done.

    Args:
        weight: ``(O, I, kH, kW)`` or ``(O, I, kD, kH, kW)``, in the dtype of the inputs.
        bias: ``(O,)``, or None.
        stride, padding, dilation, groups: as `torch.nn.functional.conv2d` takes them.
        winograd: the transforms by which it is done, or None.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] | str = (0, 0),
        dilation: tuple[int, ...] = (1, 1),
        groups: int = 1,
        *,
        winograd: Winograd | None = None,
    ) -> None:
        self.weight, self.bias, self.winograd = weight, bias, winograd
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self._prepared: torch.Tensor | None = None

    def of(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, winograd: Winograd | None = None
    ) -> Convolution:
        """The same of other tensors; the weight in the memory format that is fastest."""
        weight = weight.contiguous(memory_format=layout_of(weight.ndim))
        geometry = self.stride, self.padding, self.dilation, self.groups
        return Convolution(weight, bias, *geometry, winograd=winograd or self.winograd)

    def __call__(
        self, x: torch.Tensor, activation: Activation | None = None, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(N, I, ...)`` to ``(N, O, ...)``; then another tensor of that size is added, then comes the activation."""
        if self._prepared is None:
            self._prepared = self._prepare(x)
        weight, bias = self._prepared, self.bias
        geometry = self.padding, self.stride, self.dilation, self.groups
        if weight.is_mkldnn:
            name, scalars = (activation.name, list(activation.scalars)) if activation else (None, [])
            if added is None:
                return cast("torch.Tensor", CONVOLVE(x, weight, bias, *geometry, name or "none", scalars, ""))
            if x.ndim == 4 and name in AFTER_A_SUM:
                fused = CONVOLVE.binary(x, added, weight, bias, *geometry, "add", None, name, scalars, "")
                return cast("torch.Tensor", fused)
            y: torch.Tensor = CONVOLVE(x, weight, bias, *geometry, "none", [], "")
        elif self.winograd is not None:
            y = self.winograd.run(x, weight, bias)
        else:
            y = FUNCTIONAL[x.ndim](x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        if added is not None:
            y += added
        return activation(y) if activation else y

    def _prepare(self, x: torch.Tensor) -> torch.Tensor:
        """The weight as it is used: transformed, packed, or as it is."""
        weight = self.weight
        if self.winograd is not None:
            return transformed(weight)
        known = PACK[weight.ndim] is not None and CONVOLVE is not None and not isinstance(self.padding, str)
        if known and (weight.device.type, weight.dtype) == ("cpu", torch.float32):
            geometry = self.padding, self.stride, self.dilation, self.groups
            with contextlib.suppress(RuntimeError):  # another kind of processor, a torch without oneDNN
                packed: torch.Tensor = PACK[weight.ndim](weight.to_mkldnn(), *geometry, list(x.shape))
                return packed
        return weight
