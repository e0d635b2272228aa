"""From native volumes to slices of one spacing, one size and one grey scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from prrmse.data.slices import IGNORE

CLIP_PERCENTILES = (1.0, 99.0)
# So many times finer or coarser than the grid may pixels be; beyond, the header's unit is wrong.
MAX_ZOOM = 64


class Grid(NamedTuple):
    """Where to sample: ``size`` x ``size`` pixels of ``spacing_mm``, around the image or the labels."""

    spacing_mm: float
    size: int
    crop: str


def resample(
    image: np.ndarray, label: np.ndarray, spacing_mm: tuple[float, float], grid: Grid
) -> tuple[np.ndarray, np.ndarray]:
    """Resample, crop and pad a volume in-plane, in one interpolation.

    The image is smoothed against aliasing when it gets coarser, and interpolated linearly; outside it
    lies its darkest value, as air. Each label's mask is treated alike and the largest wins: nearest-neighbour
    sampling would shift edges by up to half a pixel and lose thin walls.

    Args:
        image: ``[Z, H, W]`` or ``[Z, C, H, W]``.
        label: ``[Z, H, W]``.
        spacing_mm: native (rows, columns).
        grid: the grid wanted.

    Returns:
        float32 image and uint8 label, ``[Z, size, size]`` (the image with its channels).
    """
    centre = _centre(np.where(label == IGNORE, 0, label)) if grid.crop == "label" else None
    rows, columns = (
        _positions(label.shape[1 + axis], spacing_mm[axis], grid, None if centre is None else centre[axis])
        for axis in (0, 1)
    )
    sigma = [*(0.5 * max(0.0, grid.spacing_mm / s - 1.0) for s in spacing_mm)]

    def sample(volume: np.ndarray, outside: float) -> np.ndarray:
        smooth = ndimage.gaussian_filter(volume, sigma, mode="nearest", axes=(-2, -1)) if any(sigma) else volume
        return _interpolate(_interpolate(smooth, rows, -2, outside), columns, -1, outside)

    classes = np.unique(label)
    shares = np.stack([sample((label == c).astype(np.float32), outside=float(c == 0)) for c in classes])
    darkest = image.min((-2, -1), keepdims=True)
    return (sample(image - darkest, outside=0.0) + darkest).astype(np.float32), classes[shares.argmax(0)].astype(
        np.uint8
    )


def _centre(label: np.ndarray) -> tuple[float, float] | None:
    """Middle of the labels' bounding box over all slices given; None (the image's middle) without any."""
    foreground = np.argwhere(label.any(0))
    if len(foreground) == 0:
        return None
    low, high = foreground.min(0), foreground.max(0)
    return float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2


def _positions(n: int, spacing: float, grid: Grid, centre: float | None) -> np.ndarray:
    """Native coordinates of the grid's pixel centres along one axis."""
    middle = (n - 1) / 2 if centre is None else centre
    offsets = np.arange(grid.size) - (grid.size - 1) / 2
    return middle + offsets * grid.spacing_mm / spacing


def _interpolate(volume: np.ndarray, positions: np.ndarray, axis: int, outside: float) -> np.ndarray:
    """Linear interpolation along one axis."""
    n = volume.shape[axis]
    inside = np.clip(positions, 0, n - 1)
    low = np.floor(inside).astype(int)
    high = np.minimum(low + 1, n - 1)
    shape = [1] * volume.ndim
    shape[axis] = -1
    share = (inside - low).astype(np.float32).reshape(shape)
    result = np.take(volume, low, axis) * (1 - share) + np.take(volume, high, axis) * share
    is_outside = ((positions < -0.5) | (positions > n - 0.5)).reshape(shape)
    return np.where(is_outside, np.float32(outside), result)


def normalise(image: np.ndarray) -> np.ndarray:
    """Each slice and channel clipped to its 1st and 99th percentile, then to mean 0 and SD 1; a constant slice to 0."""
    low, high = np.percentile(image, CLIP_PERCENTILES, axis=(-2, -1), keepdims=True)
    clipped = np.clip(image, low, high).astype(np.float64)
    centred = clipped - clipped.mean((-2, -1), keepdims=True)
    sd = centred.std((-2, -1), keepdims=True)
    return np.where(sd > 0, centred / np.where(sd > 0, sd, 1), 0).astype(np.float32)


def middle_slices(n: int, most: int | None) -> slice:
    """At most so many neighbouring slices around the middle one."""
    if most is None or n <= most:
        return slice(0, n)
    first = (n - most) // 2
    return slice(first, first + most)
