"""Convolutions by oneDNN, the CPU library of torch, with weights that are packed once (oneDNN: weights reordering).

`torch.nn.functional.conv2d` packs the weights anew in each call, which for wide layers and few slices takes up to a
quarter of the time. The operations here are those that torch's compiler calls and have no public name, so wherever
they are missing the public function takes their place.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.nn import functional as F

PACK: Any = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)
CONVOLVE: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)


class Convolution:
    """A 2D convolution, and a ReLU after it if wanted, of many inputs of about one size.

    Args:
        weight: ``(O, I, kH, kW)``.
        bias: ``(O,)``, or None.
        stride, padding, dilation, groups: as `torch.nn.functional.conv2d` takes them.
        relu: whether it follows.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, ...] = (1, 1),
        padding: tuple[int, ...] | str = (0, 0),
        dilation: tuple[int, ...] = (1, 1),
        groups: int = 1,
        relu: bool = False,
    ) -> None:
        self.weight, self.bias, self.relu = weight, bias, relu
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
            y: torch.Tensor = CONVOLVE(x, self.weight, self.bias, *geometry, "relu" if self.relu else "none", [], "")
            return y
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return y.relu_() if self.relu else y
