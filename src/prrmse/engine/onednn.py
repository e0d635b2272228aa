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

PACK: Any = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)
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
    """A 2D convolution, and an activation after it if there is one, of many inputs of about one size.

    Args:
        weight: ``(O, I, kH, kW)``.
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
        known = PACK is not None and CONVOLVE is not None and not isinstance(padding, str)
        self._to_pack = known and weight.device.type == "cpu" and weight.dtype is torch.float32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, I, H, W)`` to ``(N, O, H', W')``."""
        geometry = self.padding, self.stride, self.dilation, self.groups
        if self._to_pack:
            self._to_pack = False
            with contextlib.suppress(RuntimeError):  # another kind of processor, a torch without oneDNN
                self.weight = PACK(self.weight.to_mkldnn(), *geometry, list(x.shape))
        if self.weight.is_mkldnn:
            name, scalars = (self.activation.name, list(self.activation.scalars)) if self.activation else ("none", [])
            y: torch.Tensor = CONVOLVE(x, self.weight, self.bias, *geometry, name, scalars, "")
            return y
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return self.activation(y) if self.activation else y
