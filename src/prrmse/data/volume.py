"""What a file holds, and what every reader yields: one native volume."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prrmse.errors import InputError

# Largest grey value: float32 must hold differences and sums.
MAX_GREY = 1e30
# Part of a pixel by which an image and its label may lie apart; headers round.
TOLERANCE = 0.1


class ImageFile(NamedTuple):
    """What one file holds.

    Attributes:
        path: the file.
        pixels: plain numbers, ``[Z, H, W]``, or ``[Z, C, H, W]`` for several channels.
        spacing_mm: (between slices, rows, columns); None if the file does not say.
        affine: 4 x 4, from (column, row, slice) to mm; None if the file does not say.
    """

    path: Path
    pixels: np.ndarray[Any, np.dtype[Any]]
    spacing_mm: tuple[float, float, float] | None
    affine: np.ndarray[Any, np.dtype[Any]] | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return self.pixels.shape[0], self.pixels.shape[-2], self.pixels.shape[-1]


def check_same_grid(image: ImageFile, other: ImageFile) -> None:
    """Refuse a label (or a channel) that does not lie where its image lies.

    What one of the two files does not say is not compared.

    Raises:
        InputError: names the other file; shape, spacing or place differ.
    """
    cure = "resample both to one grid, or restore the header"
    if image.shape != other.shape:
        raise InputError(
            f"{other.path}: shape {other.shape} and that of its image {image.path}, {image.shape} (slices, rows, "
            f"columns), differ; {cure}"
        )
    first = 0 if len(image.pixels) > 1 else 1  # of one slice, files leave the distance to the next undefined
    spacings = [file.spacing_mm[first:] for file in (image, other) if file.spacing_mm is not None]
    if not np.allclose(spacings[:1], spacings, rtol=1e-2, atol=0):
        raise InputError(
            f"{other.path}: spacing {_mm(spacings[1])} and that of its image {image.path}, {_mm(spacings[0])} (the "
            f"last two are rows and columns), differ; {cure}"
        )
    if image.affine is not None and other.affine is not None and image.spacing_mm:
        corners = np.array([(*c, 1) for c in itertools.product(*((0, n - 1) for n in image.shape[::-1]))])
        apart = float(np.linalg.norm((corners @ (image.affine - other.affine).T)[:, :3], axis=1).max())
        if not apart <= TOLERANCE * min(image.spacing_mm[1:]):
            raise InputError(
                f"{other.path}: lies up to {apart:.3g} mm away from its image {image.path} by their headers (moved, "
                f"turned or flipped); {cure}"
            )


def _mm(spacing: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.4g}" for value in spacing) + " mm"


def label_of(file: ImageFile, numbers: Mapping[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Classes ``[Z, H, W]`` of a label file.

    Args:
        file: the label.
        numbers: class of every value that the file may hold.

    Raises:
        InputError: several channels, or a value that is not declared.
    """
    if file.pixels.ndim != 3:
        raise InputError(
            f"{file.path}: a label needs one channel of class numbers, found {file.pixels.shape[1]} channels; "
            "export class numbers, not colours"
        )
    values = np.unique(file.pixels).tolist()
    if any(value != int(value) for value in values if np.isfinite(value)) or not np.isfinite(values).all():
        raise InputError(f"{file.path}: labels must be whole numbers, the file holds others; fix the file")
    unknown = [value for value in values if value not in numbers]
    if unknown:
        more = ", ..." if len(unknown) > 5 else ""
        raise InputError(
            f"{file.path}: unknown labels [{', '.join(f'{v:g}' for v in unknown[:5])}{more}]; known are "
            f"{sorted(numbers)}; fix the file, or declare them"
        )
    label = np.zeros(file.pixels.shape, np.uint8)
    for value in values:
        if numbers[value]:
            label[file.pixels == value] = numbers[value]
    return label


@dataclass
class Volume:
    """One stack of short-axis slices at native resolution.

    Attributes:
        patient, frame: ids; frame is e.g. ED, ES or TI03.
        image: float32 ``[Z, H, W]``, or ``[Z, C, H, W]`` for several channels.
        label: uint8 ``[Z, H, W]``.
        spacing_mm: (between rows, between columns).
        slice_ids: Z numbers as the data set counts its slices.
        source: the image file, named in errors.
        folder_split: the split that the release's folders imply, if any.
    """

    patient: str
    frame: str
    image: np.ndarray[Any, np.dtype[np.float32]]
    label: np.ndarray[Any, np.dtype[np.uint8]]
    spacing_mm: tuple[float, float]
    slice_ids: list[int]
    source: Path
    folder_split: str | None = None


def as_float32(pixels: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The same numbers; what float32 cannot hold becomes infinite, which `checked` refuses."""
    with np.errstate(over="ignore"):
        return pixels.astype(np.float32)


def checked(volume: Volume) -> Volume:
    """The volume itself, if its image can be used.

    Raises:
        InputError: NaN, infinite or overflowing pixels, or a spacing that is none.
    """
    where = f"{volume.source}: {volume.patient}, frame {volume.frame}:"
    if not np.isfinite(volume.image).all():
        raise InputError(f"{where} the image holds NaN or infinite pixels; restore it")
    if max(-float(volume.image.min()), float(volume.image.max())) > MAX_GREY:
        raise InputError(f"{where} the image holds values beyond {MAX_GREY:g}; restore or rescale it")
    if not (np.isfinite(volume.spacing_mm).all() and min(volume.spacing_mm) > 0):
        raise InputError(f"{where} pixel spacing {volume.spacing_mm} mm is not positive; fix the header")
    return volume
