"""T1 mapping set as distributed (doi:10.7910/DVN/DHEUAV): one MATLAB v7.3 file with images and contours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from prrmse.data.contour import check_contour, check_nested, fill_contour
from prrmse.data.reading import check_readable, check_size, naming
from prrmse.data.volume import Volume, as_float32, checked
from prrmse.errors import InputError

CLASSES = {1: "myocardium"}
SOURCE = "Harvard Dataverse, doi:10.7910/DVN/DHEUAV (T1Dataset210.mat)"
LAYOUT = "one MATLAB v7.3 file with the struct array `Dataset`"
ADVICE = "download it again"
FIELDS = ("Img", "SliceLocation", "TriggerTime", "EpiContours", "EndoContours")
# Not stored in the file. From epicardial diameters in published overlays: 1.1 to 1.2 mm (reconstruction).
SPACING_MM = (1.2, 1.2)


def mat_file(root: Path) -> Path | None:
    """The root itself, or the one .mat file in it."""
    if root.is_file():
        return root
    found = sorted(path for path in root.glob("*.mat") if path.is_file() and not path.name.startswith("."))
    if len(found) > 1:
        raise InputError(f"{root}: holds {len(found)} .mat files; name one of them as the root")
    return found[0] if found else None


def files(root: Path) -> list[Path]:
    """Every file that `volumes` reads."""
    path = mat_file(root)
    return [path] if path else []


def volumes(root: Path) -> Iterator[Volume]:
    """One volume of slices for every patient and inversion time (TI01 is the shortest).

    The label is the LV myocardium: epicardial minus endocardial contour of that very image. Contours
    are taken to count pixels from 0; the file does not say, and 1 would be an offset of one pixel.

    Raises:
        InputError: not MATLAB v7.3, a field is missing, sizes do not agree, or a contour is impossible.
    """
    path = mat_file(root)
    assert path is not None
    with _open(path) as file:
        with naming(path, "MATLAB v7.3 of this set", ADVICE):
            patients = _field(file, "Img", path).size
        for p in range(patients):
            where = f"{path}: patient {p + 1}"
            names = ("Img", "EpiContours", "EndoContours", "TriggerTime")
            image, epi, endo, times = (_element(file, name, p, where) for name in names)
            # HDF5 shows MATLAB's axes reversed: Img (slice, time, column, row), contours (slice, time, xy, point).
            _check_shapes(image, epi, endo, times, where)
            image, epi, endo = image.transpose(1, 0, 3, 2), epi.transpose(1, 0, 3, 2), endo.transpose(1, 0, 3, 2)
            for t in range(len(image)):
                label = np.stack(
                    [
                        _ring(epi[t, z], endo[t, z], image.shape[2:], f"{where}, image {t + 1}, slice {z + 1}")
                        for z in range(len(image[t]))
                    ]
                )
                volume = Volume(
                    f"patient{p + 1:03d}",
                    f"TI{t + 1:02d}",
                    as_float32(image[t]),
                    label,
                    SPACING_MM,
                    list(range(image.shape[1])),
                    path,
                )
                yield checked(volume)


def _open(path: Path) -> h5py.File:
    check_readable(path, ADVICE)
    with naming(path, "MATLAB v7.3", f"{ADVICE}, or re-save an older file with save(..., '-v7.3')"):
        return h5py.File(path, "r")


def _field(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    if not isinstance(file.get("Dataset", getlink=True), h5py.HardLink):
        raise InputError(f"{path}: has no struct `Dataset`; name the T1 mapping set's file as the root")
    if name not in file["Dataset"]:
        raise InputError(
            f"{path}: the struct `Dataset` has no field {name}; expected {', '.join(FIELDS)}; download it again"
        )
    if not isinstance(file["Dataset"].get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path}: the field {name} lies elsewhere or in another file; {ADVICE}")
    return file["Dataset"][name]


def _element(file: h5py.File, name: str, p: int, where: str) -> np.ndarray:
    with naming(where, f"a field {name} that can be read", ADVICE):
        references = _field(file, name, Path(file.filename))
        check_size(where, references.shape)
        found = file[references[:].reshape(-1)[p]]
        check_size(f"{where}: field {name}", found.shape)
        if found.external or found.is_virtual:
            raise InputError(f"{where}: the numbers of field {name} are in another file; {ADVICE}")
        if found.dtype.kind not in "biuf" or found.dtype.itemsize > 8:
            raise InputError(f"{where}: field {name} holds {found.dtype}, expected plain numbers; {ADVICE}")
        return np.asarray(found[()])


def _check_shapes(image: np.ndarray, epi: np.ndarray, endo: np.ndarray, times: np.ndarray, where: str) -> None:
    ok = image.ndim == epi.ndim == 4 and epi.shape == endo.shape and epi.shape[:2] == image.shape[:2]
    if not ok or epi.shape[2] != 2 or times.size != image.shape[0] * image.shape[1]:
        raise InputError(
            f"{where}: sizes do not agree: Img {image.shape}, EpiContours {epi.shape}, EndoContours {endo.shape}, "
            f"TriggerTime {times.shape} (slice, time, ...); download the file again"
        )


def _ring(epi: np.ndarray, endo: np.ndarray, shape: tuple[int, int], where: str) -> np.ndarray:
    for points, name in ((epi, "EpiContours"), (endo, "EndoContours")):
        check_contour(points, shape, f"{where}, {name}")
    inner, outer = fill_contour(endo, shape), fill_contour(epi, shape)
    check_nested(inner, outer, where)
    ring: np.ndarray[Any, np.dtype[np.uint8]] = (outer & ~inner).astype(np.uint8)
    return ring
