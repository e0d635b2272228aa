"""Augmentation on the device: flips, quarter turns and small shifts of contrast."""

from __future__ import annotations

import torch


class Augmentation:
    """One random flip and quarter turn per batch, one contrast and offset per image.

    All draws of a training are made at once, so that no step waits for one; by the CPU, so that they are the same on
    every device.

    Args:
        steps, batch_size: of the training.
        seed: of the draws.
        device: of the images.
    """

    def __init__(self, steps: int, batch_size: int, seed: int, device: torch.device) -> None:
        draws = torch.Generator().manual_seed(seed)
        self.turns = torch.randint(0, 4, (steps,), generator=draws).tolist()
        self.flips = (torch.rand(steps, generator=draws) < 0.5).tolist()
        factors = 0.1 * torch.randn(2, steps, batch_size, generator=draws)
        self.scale, self.offset = (1 + factors[0]).to(device), factors[1].to(device)
        self.depth_flips = (torch.rand(steps, generator=draws) < 0.5).tolist()

    def __call__(self, step: int, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step (from 0): image ``[N, C, ..., H, W]`` and label ``[N, ..., H, W]``, moved along.

        What is not square gets half turns only, patches a flip of their depth beside.
        """
        turns = self.turns[step] if image.shape[-2] == image.shape[-1] else 2 * (self.turns[step] % 2)
        image, label = torch.rot90(image, turns, (-2, -1)), torch.rot90(label, turns, (-2, -1))
        if self.flips[step]:
            image, label = image.flip(-1), label.flip(-1)
        if image.ndim == 5 and self.depth_flips[step]:
            image, label = image.flip(-3), label.flip(-3)
        shape = (-1, *[1] * (image.ndim - 1))
        return image * self.scale[step].view(shape) + self.offset[step].view(shape), label
