"""Tissues and how much of each lies in a pixel."""

from __future__ import annotations

import numpy as np

TISSUES = (
    "air",
    "fat",
    "muscle",
    "lung",
    "liver",
    "spleen",
    "stomach",
    "bone",
    "cortex",
    "vessel",
    "aorta",
    "myocardium",
    "rv_blood",
    "lv_blood",
)


class Canvas:
    """Shares of the tissues in each pixel, ``[len(TISSUES), H, W]``, summing to 1; painted back to front."""

    def __init__(self, shares: np.ndarray) -> None:
        self.shares = shares

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Canvas:
        """All air."""
        shares = np.zeros((len(TISSUES), *shape))
        shares[TISSUES.index("air")] = 1.0
        return cls(shares)

    def copy(self) -> Canvas:
        """An independent copy."""
        return Canvas(self.shares.copy())

    def paint(self, tissue: str, share: np.ndarray) -> None:
        """Cover what is there by `share [H, W]` of a tissue."""
        self.shares *= 1 - share
        self.shares[TISSUES.index(tissue)] += share
