"""Resizing and pooling as matrices: linear operations, the same for every channel, on one axis after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch


def matrices(function: Callable[[torch.Tensor], torch.Tensor], height: int, width: int) -> list[torch.Tensor]:
    """What the function makes of rows ``[H, height]`` and of columns ``[W, width]``, on the CPU.

    Args:
        function: from images ``[1, 1, height, width]`` to images ``[1, 1, H, W]``; it keeps a constant axis constant.
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
        # A copy of one row or column: a view would keep the whole image.
        made.append(torch.stack([function(unit)[0, 0].select(1 - axis, 0).clone() for unit in units], dim=1))
    return made
