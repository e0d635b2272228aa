"""Contours to masks. Pixel centres lie at whole numbers: pixel (row r, column c) covers r +- 0.5, c +- 0.5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from skimage.draw import polygon2mask

from prrmse.errors import InputError

MAX_POINTS = 10_000


def fill_contour(points_xy: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside a closed polygon.

    Args:
        points_xy: ``[K, 2]``, x = column, y = row, in pixels, centres at whole numbers from 0. Not
            rounded first: rounding corners enlarges small masks. So a square with corners at 1.5 and 4.5
            holds the pixels 2, 3 and 4.
        shape: (rows, columns).

    Returns:
        bool ``[H, W]``; a centre exactly on the outline counts as inside.
    """
    inside: np.ndarray[Any, np.dtype[np.bool_]] = np.asarray(polygon2mask(shape, points_xy[:, ::-1]), np.bool_)
    return inside


def check_contour(points_xy: np.ndarray, shape: tuple[int, int], where: str | Path) -> None:
    """Refuse a contour that cannot belong to an image of this shape.

    Raises:
        InputError: fewer than 3 points, not finite, or outside the image.
    """
    if points_xy.ndim != 2 or points_xy.shape[0] < 3 or points_xy.shape[1] != 2:
        raise InputError(f"{where}: a contour needs 3 or more points `x y`, found shape {points_xy.shape}; restore it")
    if len(points_xy) > MAX_POINTS:
        raise InputError(f"{where}: the contour has {len(points_xy)} points, more than {MAX_POINTS}; restore it")
    if not np.isfinite(points_xy).all():
        raise InputError(f"{where}: the contour holds NaN or infinite coordinates; restore it")
    low, high = points_xy.min(0), points_xy.max(0)
    if (low < -0.5).any() or high[0] > shape[1] - 0.5 or high[1] > shape[0] - 0.5:
        raise InputError(
            f"{where}: the contour reaches x {low[0]:.1f} to {high[0]:.1f}, y {low[1]:.1f} to {high[1]:.1f}, "
            f"outside its image of {shape[1]} columns and {shape[0]} rows; check that they belong together"
        )


def check_nested(inner: np.ndarray, outer: np.ndarray, where: str | Path) -> None:
    """Refuse an inner contour that is larger than the outer one, or lies elsewhere: they were exchanged or mixed up.

    Args:
        inner, outer: filled, bool ``[H, W]``.
        where: named in the error.

    Raises:
        InputError: the inner one is larger, or less than half of it lies inside the outer one.
    """
    both, within, around = (int(mask.sum()) for mask in (inner & outer, inner, outer))
    if within > around or both < within / 2:
        raise InputError(
            f"{where}: the inner contour ({within} pixels) does not lie inside the outer one ({around} pixels, "
            f"{both} in both); are they exchanged, or of another image? restore both"
        )
