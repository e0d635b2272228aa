"""Seeds, pixel grids and slice positions of the phantoms."""

from __future__ import annotations

import hashlib

import numpy as np


def patient_rng(seed: int, dataset: str, patient: int) -> np.random.Generator:
    """Draws of one patient: the same whatever the size of the cohort."""
    name = int.from_bytes(hashlib.sha256(dataset.encode()).digest()[:4], "big")
    return np.random.default_rng(np.random.SeedSequence([seed, name, patient]))


def pixel_grid(rows: int, columns: int, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """x and y ``[rows, columns]`` of pixel centres in mm from the image centre."""
    x = (np.arange(columns) - (columns - 1) / 2) * pixel
    y = (np.arange(rows) - (rows - 1) / 2) * pixel
    across, down = np.meshgrid(x, y)
    return across, down


def levels(slices: int) -> np.ndarray:
    """Levels of the slices, from base (0) to apex (1), ends left out."""
    return np.linspace(0.08, 0.92, slices)


def slice_step_mm(length_mm: float, slices: int) -> float:
    """Distance between slices that `levels` means for an LV of this length, to 0.1 mm."""
    return round(length_mm * 0.84 / (slices - 1), 1)
