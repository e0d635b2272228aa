"""Resizing and pooling as matrices: linear operations, the same for every channel, on one axis after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MODES = {"bilinear", "bicubic"}


def matrices(function: Callable[[torch.Tensor], torch.Tensor], height: int, width: int) -> list[torch.Tensor]:
    """What the function makes of rows ``[H, height]`` and of columns ``[W, width]``, on the CPU.

    Args:
        function: from maps ``[1, 1, height, width]`` to maps ``[1, 1, H, W]``; it keeps a constant axis constant.
        height, width: of what it takes.

    Returns:
        float64 matrices.
    """
    made = []
    for axis, shape in enumerate(((1, 1, height, 1), (1, 1, 1, width))):
        # One unit vector at a time: all at once are too many pixels.
        units = [
            unit.view(shape).expand(1, 1, height, width) for unit in torch.eye(shape[2 + axis], dtype=torch.float64)
        ]
        # A copy of one row or column: a view would keep the whole map.
        made.append(torch.stack([function(unit)[0, 0].select(1 - axis, 0).clone() for unit in units], dim=1))
    return made


def resized(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """``[N, C, h, w]`` by matrices ``[H, h]`` and ``[W, w]`` to ``[N, C, H, W]``, channels last."""
    (n, channels, h, w), high, wide = x.shape, len(rows), len(columns)
    y = torch.matmul(rows, x.permute(0, 2, 3, 1).reshape(n, h, w * channels))
    y = torch.matmul(columns, y.view(n * high, w, channels))
    return y.view(n, high, wide, channels).permute(0, 3, 1, 2)


class DeterministicResizing(TorchFunctionMode):
    """Context in which gradients of resizing and of adaptive average pooling are summed in one order on a GPU.

    There torch resizes bilinearly by a slow detour in its deterministic mode, and has no deterministic gradient of
    pooling at all. As matrix products both have one, are fast, and can be recorded as a graph. On a CPU torch's own
    operations are deterministic, and stay.

    Args:
        everywhere: on a CPU too.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        super().__init__()
        self._everywhere = everywhere
        self._matrices: dict[Any, list[torch.Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        separable = func is F.adaptive_avg_pool2d or (func is F.interpolate and kwargs.get("mode") in MODES)
        if not separable or args[0].ndim != 4 or (args[0].device.type == "cpu" and not self._everywhere):
            return func(*args, **kwargs)
        x, rest = args[0], args[1:]
        with torch.autocast(x.device.type, enabled=False):
            key = func, tuple(x.shape[-2:]), x.device, x.dtype, repr((rest, kwargs))
            if key not in self._matrices:
                with torch.no_grad():
                    found = matrices(lambda part: func(part, *rest, **kwargs), *x.shape[-2:])
                self._matrices[key] = [matrix.to(x.device, x.dtype) for matrix in found]
            return resized(x, *self._matrices[key])
