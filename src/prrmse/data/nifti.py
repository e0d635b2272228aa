"""NIfTI files as arrays."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from prrmse.errors import InputError


def read_nifti(path: Path, channels: int = 1) -> tuple[np.ndarray, tuple[float, float]]:
    """Voxels ``[Z, Y, X]`` (rows, then columns) and the spacing of rows and columns in mm.

    Args:
        path: the file.
        channels: of a file of four dimensions, as the Decathlon has it; then ``[Z, C, Y, X]``.

    Raises:
        InputError: missing, truncated, not of 2 or 3 dimensions (4 for several channels), or not plain numbers.
    """
    try:
        content = path.read_bytes()
        # Unpacked whole, since nibabel stops before the checksum at the end and would pass damaged voxels.
        file = nib.Nifti1Image.from_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
        voxels = np.asanyarray(file.dataobj)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the data set is incomplete, download it again") from None
    except Exception as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"{path}: truncated or not NIfTI ({reason}); download it again") from None
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if channels > 1 and voxels.ndim == 4 and voxels.shape[-1] == channels:
        voxels = np.moveaxis(voxels, 3, 2)
    elif voxels.ndim != 3 or 0 in voxels.shape:
        raise InputError(f"{path}: shape {voxels.shape}, expected 3 dimensions (x, y, slice); export one frame")
    if voxels.dtype.kind not in "biuf":
        raise InputError(f"{path}: voxels of type {voxels.dtype}, expected plain numbers; export one grey channel")
    x, y = file.header.get_zooms()[:2]
    return voxels.T, (float(y), float(x))


def read_labels(path: Path) -> np.ndarray:
    """Labels ``[Z, Y, X]`` as uint8.

    Raises:
        InputError: as `read_nifti`, or values that are no whole numbers from 0 to 255.
    """
    voxels, _ = read_nifti(path)
    whole = np.rint(voxels)
    if not np.isfinite(voxels).all() or (whole != voxels).any() or whole.min() < 0 or whole.max() > 255:
        raise InputError(f"{path}: labels must be whole numbers from 0 to 255, the file holds others; mend the file")
    return whole.astype(np.uint8)
