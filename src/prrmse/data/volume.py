"""What every reader yields: one native volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prrmse.errors import InputError


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
        label_source: the label file, named in errors; the image file if None.
    """

    patient: str
    frame: str
    image: np.ndarray
    label: np.ndarray
    spacing_mm: tuple[float, float]
    slice_ids: list[int]
    source: Path
    folder_split: str | None = None
    label_source: Path | None = None


def checked(volume: Volume, classes: dict[int, str]) -> Volume:
    """The volume itself, if image and labels can be used.

    Raises:
        InputError: shapes differ, NaN or infinite pixels, labels that the data set does not declare.
    """
    where = volume.source
    shape = (len(volume.image), *volume.image.shape[-2:])
    if shape != volume.label.shape:
        raise InputError(
            f"{where}: image {shape} and label {volume.label.shape} (slices, rows, columns) differ in "
            f"shape; restore this file and {volume.label_source or 'its label'}"
        )
    if not np.isfinite(volume.image).all():
        raise InputError(
            f"{where}: {volume.patient}, frame {volume.frame}: the image holds NaN or infinite pixels; restore it"
        )
    unknown = set(np.unique(volume.label).tolist()) - {0, *classes}
    if unknown:
        raise InputError(
            f"{volume.label_source or where}: unknown labels {sorted(unknown)}; known are {sorted({0, *classes})}; "
            "mend the file"
        )
    if not (np.isfinite(volume.spacing_mm).all() and min(volume.spacing_mm) > 0):
        raise InputError(f"{where}: pixel spacing {volume.spacing_mm} mm is not positive; mend the header")
    return volume
