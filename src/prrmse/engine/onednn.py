"""Convolutions by oneDNN, the CPU library of torch, with weights that are packed once (oneDNN: weights reordering).

`torch.nn.functional.conv2d` packs the weights anew in each call, which for wide layers and few slices takes up to a
quarter of the time. The operations here are those that torch's compiler calls and have no public name, so wherever
they are missing the public function takes their place.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

# By the dimensions of the weight.
PACK: dict[int, Any] = {n + 2: getattr(torch._C._nn, f"mkldnn_reorder_conv{n}d_weight", None) for n in (2, 3)}
FUNCTIONAL: dict[int, Any] = {4: F.conv2d, 5: F.conv3d}
CONVOLVE: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


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
    """A 2D or 3D convolution, and an activation after it if there is one, of many inputs of about one size.

    Args:
        weight: ``(O, I, kH, kW)`` or ``(O, I, kD, kH, kW)``.
        bias: ``(O,)``, or None.
        stride, padding, dilation, groups: as `torch.nn.functional.conv2d` takes them.
        activation: what follows, or None.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] | str = (0, 0),
        dilation: tuple[int, ...] = (1, 1),
        groups: int = 1,
        activation: Activation | None = None,
    ) -> None:
        self.weight, self.bias, self.activation = weight, bias, activation
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        known = PACK[weight.ndim] is not None and CONVOLVE is not None and not isinstance(padding, str)
        self._to_pack = known and weight.device.type == "cpu" and weight.dtype is torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, I, ...)`` to ``(N, O, ...)``."""
        geometry = self.padding, self.stride, self.dilation, self.groups
        if self._to_pack:
            self._to_pack = False
            with contextlib.suppress(RuntimeError):  # another kind of processor, a torch without oneDNN
                self.weight = PACK[self.weight.ndim](self.weight.to_mkldnn(), *geometry, list(x.shape))
        if self.weight.is_mkldnn:
            name, scalars = (self.activation.name, list(self.activation.scalars)) if self.activation else ("none", [])
            y: torch.Tensor = CONVOLVE(x, self.weight, self.bias, *geometry, name, scalars, "")
            return y
        y = FUNCTIONAL[x.ndim](x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self.activation(y) if self.activation else y
