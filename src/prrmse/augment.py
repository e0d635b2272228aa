"""Augmentation on the device: flips, quarter turns and small shifts of contrast."""

from __future__ import annotations

import torch


def augment(image: torch.Tensor, label: torch.Tensor, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One random flip and quarter turn per batch, one contrast and offset per image.

    Args:
        image: ``[N, C, H, W]``, square.
        label: ``[N, H, W]``, moved along.
        draws: generator on the CPU, so that the draws are the same on every device.
    """
    turns, flip = torch.randint(0, 4, (), generator=draws).item(), torch.rand((), generator=draws).item() < 0.5
    image, label = torch.rot90(image, int(turns), (2, 3)), torch.rot90(label, int(turns), (1, 2))
    if flip:
        image, label = image.flip(3), label.flip(2)
    n = len(image)
    scale = 1 + 0.1 * torch.randn(n, 1, 1, 1, generator=draws)
    offset = 0.1 * torch.randn(n, 1, 1, 1, generator=draws)
    return image * scale.to(image.device) + offset.to(image.device), label
