"""MetaImage and NRRD, through SimpleITK (``pip install prrmse[images]``)."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from prrmse.data.reading import MAX_BYTES, check_readable, check_size, naming, one_line
from prrmse.data.volume import ImageFile
from prrmse.errors import InputError

# Fields of a MetaImage that hold NDims numbers, or NDims x NDims.
LENGTHS = {
    **dict.fromkeys(
        ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), 1
    ),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
# Of a NRRD.
LONGEST_FIELD = 200


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
    _check_header(path)
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


def _check_header(path: Path) -> None:
    """Refuse what SimpleITK would read beyond its memory, and pixels in another file, read unseen and untracked."""
    with path.open("rb") as file:
        header = file.read(2**16).replace(b"\r", b"")
    kind, check = ("MetaImage", _check_metaimage) if path.suffix == ".mha" else ("NRRD", _check_nrrd)
    with naming(path, kind, "download it again"):
        name = check(header, path.stat().st_size)
    if name != "LOCAL":
        raise InputError(f"{path}: its pixels are in another file ({one_line(name)}); save both as one file")


def _check_nrrd(header: bytes, size: int) -> str:
    """``data file`` of a header. A long value that it does not know crashes the library that ITK reads NRRD with.

    Raises:
        ValueError: a field is too long, there twice, or not of plain characters; or a number in it cannot be.
    """
    lines = header.split(b"\n\n")[0].split(b"\n")
    if not lines[0].startswith(b"NRRD000"):
        raise ValueError("it does not begin with NRRD")
    fields: dict[str, str] = {}
    for line in lines:
        text = line.decode("utf-8" if line.startswith(b"#") or b":=" in line else "ascii")
        key, sign, value = text.partition(":")
        if text.startswith("#") or value.startswith("="):  # a comment, or a pair of the user's
            continue
        if len(text) > LONGEST_FIELD or not text.isprintable():
            raise ValueError(f"line {text[:40]!r}")
        name = re.sub(r"[ -]", "", key).lower()
        if sign and name in fields:
            raise ValueError(f"{key} is there twice")
        fields[name] = value.strip()
    for name in ("lineskip", "byteskip"):
        if not -1 <= int(fields.get(name, "0")) <= size:
            raise ValueError(f"{name} {fields[name]}")
    n = int(fields.get("dimension", "0"))
    if not 2 <= n <= 4 or len(fields.get("sizes", "").split()) != n:
        raise ValueError("dimension or sizes")
    return fields.get("datafile", "LOCAL")


def _check_metaimage(header: bytes, size: int) -> str:
    """``ElementDataFile`` of a header. ITK copies as many numbers as it says into arrays of ten, unchecked.

    Raises:
        ValueError: it is none, or a list is not as long as NDims says.
    """
    fields: dict[str, str] = {}
    for line in header.split(b"\n"):
        key, sign, value = line.decode("ascii").partition("=")
        if not sign or not key.strip().isidentifier() or not value.isprintable() or len(value) > 1000:
            raise ValueError(f"line {key[:40]!r}")
        if key.strip() in fields:
            raise ValueError(f"{key.strip()} is there twice")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    n = int(fields.get("NDims", "0"))
    if not 2 <= n <= 4 or "ElementDataFile" not in fields or "DimSize" not in fields:
        raise ValueError("NDims, DimSize or ElementDataFile")
    for key, length in LENGTHS.items():
        values = [float(value) for value in fields.get(key, "").split()]
        if key in fields and (len(values) != n**length or not all(map(math.isfinite, values))):
            raise ValueError(f"{key} = {fields[key][:80]}")
    for key in ("CompressedDataSize", "HeaderSize"):
        if not -1 <= int(fields.get(key, "0")) <= size or (key == "CompressedDataSize" and fields.get(key) == "-1"):
            raise ValueError(f"{key} = {fields[key][:80]}")
    return fields["ElementDataFile"]
