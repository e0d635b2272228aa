"""NIfTI files as arrays."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np

from prrmse.data.reading import MAX_BYTES, check_readable, check_size, naming
from prrmse.data.volume import ImageFile
from prrmse.errors import InputError

IN_MM = {"meter": 1000.0, "micron": 0.001}
ADVICE = "the data set is incomplete, download it again"


def read_nifti(path: Path, *, canonical: bool = False) -> ImageFile:
    """Voxels ``[Z, Y, X]`` as they are stored, or ``[Z, C, Y, X]`` of a file of four dimensions (Decathlon).

    The spacing is that of ``pixdim``, which the standard defines as the grid's; the affine (sform, else qform) tells
    only where the grid lies, and may be absent. A unit affine, as programs write it that know no place, counts as
    absent.

    Args:
        path: ``.nii`` or ``.nii.gz``, NIfTI-1 or NIfTI-2.
        canonical: flip and swap axes to the nearest of right, anterior, superior, as nnU-Net's NibabelIOWithReorient.

    Raises:
        InputError: missing, truncated, not of 2 to 4 dimensions, too large, not plain numbers, or a spacing that is
            none.
    """
    check_readable(path, ADVICE, MAX_BYTES)
    with naming(path, "NIfTI", "download it again"):
        file = _load(path)
        if canonical:
            file = file.as_reoriented(nib.orientations.io_orientation(file.affine))
        voxels = np.asanyarray(file.dataobj)
        unit = file.header.get_xyzt_units()[0]
    if voxels.ndim == 2:
        voxels = voxels[..., None]
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim not in (3, 4):
        raise InputError(f"{path}: shape {voxels.shape}, expected 3 dimensions (x, y, slice); export one frame")
    x, y, z = (float(v) * IN_MM.get(unit, 1.0) for v in file.header["pixdim"][1:4])
    known = int(file.header["sform_code"]) or int(file.header["qform_code"])
    affine = None if not known or np.array_equal(file.affine, np.eye(4)) else file.affine
    return ImageFile(path, voxels.T if voxels.ndim == 3 else np.moveaxis(voxels.T, 0, 1), (z, y, x), affine)


def _load(path: Path) -> nib.Nifti1Image:
    """The file, unpacked to the end: nibabel stops before gzip's checksum and would pass damaged voxels."""
    with contextlib.ExitStack() as files:
        stream: BinaryIO = files.enter_context(path.open("rb"))
        if path.suffix == ".gz":
            stream = cast(BinaryIO, files.enter_context(gzip.GzipFile(fileobj=stream)))
        start = stream.read(540)
        of_version_2 = int.from_bytes(start[:4], "little") == 540 or int.from_bytes(start[:4], "big") == 540
        kind = nib.Nifti2Image if of_version_2 else nib.Nifti1Image
        header = kind.header_class(start[: kind.header_class.template_dtype.itemsize], check=False)
        dtype, pixdim = header.get_data_dtype(), header["pixdim"][1:3]
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise InputError(f"{path}: voxels of type {dtype}, expected plain numbers; export one grey channel")
        if not all(math.isfinite(v) and v > 0 for v in pixdim.tolist()):
            raise InputError(f"{path}: pixel spacing {pixdim.tolist()} mm is not positive; fix the header (pixdim)")
        shape = tuple(int(n) for n in header.get_data_shape())
        check_size(path, shape)
        size = int(header.get_data_offset()) + prod(shape) * dtype.itemsize
        if size > MAX_BYTES:
            raise InputError(f"{path}: its header asks for {size} bytes, more than {MAX_BYTES}; fix the header")
        content = start + stream.read(max(0, size - len(start)))
        surplus = len(content)
        while more := stream.read(2**20):
            surplus += len(more)
            if surplus > MAX_BYTES:
                raise InputError(f"{path}: unpacks to more than {MAX_BYTES} bytes; download it again")
    file: nib.Nifti1Image = kind.from_stream(io.BytesIO(content))
    return file
