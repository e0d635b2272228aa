"""MetaImage and NRRD, through SimpleITK (``pip install prrmse[images]``)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from prrmse.data.reading import MAX_BYTES, check_readable, check_size, naming
from prrmse.data.volume import ImageFile
from prrmse.errors import InputError


def require_simpleitk(path: Path) -> None:
    """Refuse the data set if the optional package is absent.

    Raises:
        InputError: says how to install it.
    """
    try:
        import SimpleITK  # noqa: F401
    except ImportError:
        raise InputError(f"{path}: .mha and .nrrd need SimpleITK; pip install 'prrmse[images]'") from None


def read_itk(path: Path) -> ImageFile:
    """Voxels ``[Z, Y, X]`` as they are stored, or ``[Z, C, Y, X]`` of a file of four dimensions.

    Raises:
        InputError: missing, truncated, too large, not plain numbers, with its pixels in another file, or SimpleITK is
            absent.
    """
    require_simpleitk(path)
    import SimpleITK as sitk

    check_readable(path, "the data set is incomplete, download it again", MAX_BYTES)
    _refuse_detached(path)
    with naming(path, "MetaImage or NRRD", "download it again"):
        header = sitk.ImageFileReader()
        header.SetImageIO("MetaImageIO" if path.suffix == ".mha" else "NrrdImageIO")
        header.SetFileName(str(path))
        header.ReadImageInformation()
        check_size(path, header.GetSize())
        kind = sitk.GetPixelIDValueAsString(header.GetPixelID())
        if header.GetNumberOfComponents() != 1 or "complex" in kind:
            raise InputError(f"{path}: pixels of type {kind}, expected plain numbers; export one grey channel")
        pixels = sitk.GetArrayFromImage(header.Execute())
    if pixels.ndim not in (2, 3, 4):
        raise InputError(f"{path}: shape {pixels.shape}, expected 3 dimensions (slice, y, x); export one frame")
    n = min(pixels.ndim, 3)
    spacing = np.ones(3)
    spacing[:n] = header.GetSpacing()[:n]
    affine = np.eye(4)
    affine[:n, :n] = np.reshape(header.GetDirection(), (pixels.ndim, pixels.ndim))[:n, :n] * spacing[:n]
    affine[:n, 3] = header.GetOrigin()[:n]
    x, y, z = spacing.tolist()
    stored = pixels[None] if pixels.ndim == 2 else pixels if pixels.ndim == 3 else np.moveaxis(pixels, 0, 1)
    return ImageFile(path, stored, (z, y, x), None if np.array_equal(affine, np.eye(4)) else affine)


def _refuse_detached(path: Path) -> None:
    """A header may name any other file, which would then be read unseen and untracked."""
    with path.open("rb") as file:
        header = file.read(2**16).replace(b"\r", b"")
    if path.suffix == ".mha":
        found = re.search(rb"^\s*ElementDataFile\s*=\s*(.*?)\s*$", header, re.MULTILINE | re.IGNORECASE)
        detached = found is not None and found[1] != b"LOCAL"
    else:
        found = re.search(rb"^data ?file\s*:\s*(.*)$", header.split(b"\n\n")[0], re.MULTILINE | re.IGNORECASE)
        detached = found is not None
    if found and detached:
        name = found[1][:80].decode(errors="replace")
        raise InputError(f"{path}: its pixels are in another file ({name}); save both as one file")
