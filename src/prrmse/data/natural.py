"""PNG, BMP and TIFF, as nnU-Net's NaturalImage2DIO and Tiff3DIO define them."""

from __future__ import annotations

import contextlib
import io
import itertools
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from prrmse.data.reading import check_size, naming, read_bytes
from prrmse.data.volume import ImageFile
from prrmse.errors import InputError

ADVICE = "the data set is incomplete, copy it again"
GREY = ("1", "L", "I;16", "I;16L", "I;16B", "I;16N", "I")


def read_picture(path: Path) -> ImageFile:
    """A grey or colour image of one slice: ``[1, H, W]``, or ``[1, C, H, W]`` with red, green, blue (and alpha).

    A palette's numbers are taken as they are: as labels they are the classes.

    Raises:
        InputError: missing, damaged, too large, or of another kind of pixel.
    """
    content = read_bytes(path, ADVICE)
    with naming(path, "PNG or BMP", "export it again"):
        for check in (True, False):
            with Image.open(io.BytesIO(content), formats=["PNG", "BMP"]) as file:
                check_size(path, file.size)
                if check:  # reads to the end and compares checksums; the image is then of no more use
                    file.verify()
                else:
                    mode, pixels = file.mode, np.asarray(file)
    if mode not in (*GREY, "P", "RGB", "RGBA"):
        raise InputError(f"{path}: pixels of mode {mode}, expected grey or RGB; export it again")
    return ImageFile(path, _with_slice(pixels), None, None)


def _with_slice(pixels: np.ndarray) -> np.ndarray:
    return (pixels if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))[None]


def read_tiff(path: Path) -> ImageFile:
    """One grey or colour slice as `read_picture`, or a stack of grey slices ``[Z, H, W]``.

    Tags of resolution are not read, as by nnU-Net; a stack's spacing stands in a ``.json`` beside it.

    Raises:
        InputError: missing, damaged, too large, or with more dimensions.
    """
    content = read_bytes(path, ADVICE)
    with naming(path, "TIFF", "export it again"), tifffile.TiffFile(io.BytesIO(content)) as file:
        _refuse_loops(file)
        series = file.series[0]
        check_size(path, series.shape)
        if len(file.series) > 1:
            raise InputError(f"{path}: holds {len(file.series)} series of images, expected one; export one")
        size_of = {axis: n for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX"}
        axes, pixels = "".join(size_of), series.asarray().reshape(list(size_of.values()))
    if pixels.dtype.kind not in "biuf" or pixels.dtype.itemsize > 8:
        raise InputError(f"{path}: pixels of type {pixels.dtype}, expected plain numbers; export it again")
    if axes == "SYX":
        axes, pixels = "YXS", np.moveaxis(pixels, 0, -1)
    if axes in ("YX", "YXS"):
        return ImageFile(path, _with_slice(pixels), None, None)
    if len(axes) != 3 or not axes.endswith("YX"):
        raise InputError(f"{path}: axes {series.axes} {series.shape}, expected one slice or a grey stack; export it so")
    return ImageFile(path, pixels, None, None)


def _refuse_loops(file: tifffile.TiffFile) -> None:
    """A damaged page may name an earlier one as the next; tifffile would follow it for ever.

    Raises:
        ValueError: it does.
    """
    seen: set[int] = set()
    with contextlib.suppress(IndexError):  # at the end
        for number in itertools.count():
            offset = file.pages[number].offset
            if offset in seen:
                raise ValueError("its pages run in a circle")
            seen.add(offset)
