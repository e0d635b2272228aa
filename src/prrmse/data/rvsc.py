"""RVSC as distributed (Petitjean et al. 2015): DICOM images, contours as text, a list of them."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian

from prrmse.data.contour import check_contour, check_nested, fill_contour
from prrmse.data.reading import check_size, naming, read_bytes, read_text
from prrmse.data.volume import Volume, as_float32, checked
from prrmse.errors import InputError

CLASSES = {1: "RV", 2: "RV wall"}
SOURCE = "the RVSC organisers (rvsc.projets.litislab.fr, on registration)"
LAYOUT = "TrainingSet/patientNN with PNNdicom, PNNcontours-manual and PNNlist.txt"
PHASES = 20
SPLIT_OF = {"TrainingSet": "train", "Test1Set": "val", "Test2Set": "test"}


def patient_folders(root: Path) -> list[tuple[Path, str]]:
    """(folder, split) of every patient of the training set, and of the test sets whose contours are there."""
    found = []
    for name, split in SPLIT_OF.items():
        for folder in sorted((root / name).glob("patient*")):
            if folder.is_dir() and (split == "train" or _contour_folder(folder).is_dir()):
                found.append((folder, split))
    return found


def _contour_folder(folder: Path) -> Path:
    """Contours lie with the patient, or apart for the test sets: ``Test1SetContours/PNNcontours-manual``."""
    name = f"P{folder.name[-2:]}contours-manual"
    apart = folder.parent.with_name(folder.parent.name + "Contours") / name
    return apart if apart.is_dir() else folder / name


def files(root: Path) -> list[Path]:
    """Every file that `volumes` reads."""
    found = []
    for folder, _ in patient_folders(root):
        found.append(_list_file(folder))
        for image, inner, outer in _labelled(folder):
            found += [image, inner, outer]
    return sorted(found)


def _list_file(folder: Path) -> Path:
    return folder / f"P{folder.name[-2:]}list.txt"


def _labelled(folder: Path) -> list[tuple[Path, Path, Path]]:
    """(image, inner contour, outer contour) of every labelled frame, from the patient's list.

    Raises:
        InputError: the list is missing or empty, or names a contour that is absent.
    """
    path = _list_file(folder)
    lines = read_text(path, "it names the labelled frames, unpack the patient again").splitlines()
    contours = _contour_folder(folder)
    patient = f"P{folder.name[-2:]}"
    numbers: dict[str, dict[str, Path]] = defaultdict(dict)
    for line in filter(None, map(str.strip, lines)):
        name = PureWindowsPath(line).name
        parts = name.split("-")
        if len(parts) != 4 or not parts[1].isdecimal() or parts[2] not in ("icontour", "ocontour"):
            raise InputError(
                f"{path}: cannot read the line {line!r}; expected ...\\PNN-FFFF-icontour-manual.txt; fix it"
            )
        contour = contours / name
        if not contour.is_file():
            raise InputError(f"{path}: names the contour {name}, which is not in {contours}; unpack the set again")
        numbers[parts[1]][parts[2]] = contour
    if not numbers:
        raise InputError(f"{path}: names no contour; unpack the patient again")
    for number, pair in numbers.items():
        if len(pair) != 2:
            raise InputError(f"{path}: frame {number} needs both an icontour and an ocontour; add the line")
    dicom = folder / f"{patient}dicom"
    return [(dicom / f"{patient}-{n}.dcm", p["icontour"], p["ocontour"]) for n, p in sorted(numbers.items())]


def volumes(root: Path) -> Iterator[Volume]:
    """ED and ES of every patient: RV cavity (inner contour) and RV wall (outer minus inner).

    Landscape and portrait images are mixed, but both show the usual anatomy (chest wall on top or to the
    left, RV left of the LV, liver below), as overlays of the release show. So they stay as they are: turning
    the landscape ones to portrait, as some published code does, would turn the anatomy.

    A slice is numbered by its position. Where renumbered copies of the release hold two frames of one
    position, all slices of that stack carry their file's number instead.

    Raises:
        InputError: a file is missing, damaged or not what it should be.
    """
    for folder, split in patient_folders(root):
        slices = defaultdict(list)
        for image_path, inner, outer in _labelled(folder):
            image, spacing, phases = _read_dicom(image_path)
            number = int(image_path.stem.split("-")[1])
            wall, cavity = (_read_contour(path, image.shape) for path in (outer, inner))
            check_nested(cavity, wall, inner)
            label = np.where(cavity, np.uint8(1), np.where(wall, np.uint8(2), np.uint8(0)))
            slices["ED" if number % phases == 0 else "ES"].append((number, phases, image, label, spacing, image_path))
        for frame, stack in slices.items():
            numbers, phases_of, images, labels, spacings, paths = zip(*stack, strict=True)
            shapes = {image.shape for image in images}
            if len(shapes) > 1 or len(set(spacings)) > 1:
                raise InputError(
                    f"{paths[0].parent}: images of frame {frame} differ in size {sorted(shapes)} or spacing "
                    f"{sorted(set(spacings))}; unpack the patient again"
                )
            ids = [number // phases for number, phases in zip(numbers, phases_of, strict=True)]
            if len(set(ids)) < len(ids):
                ids = list(numbers)
            volume = Volume(folder.name, frame, np.stack(images), np.stack(labels), spacings[0], ids, paths[0], split)
            yield checked(volume)


def _read_dicom(path: Path) -> tuple[np.ndarray, tuple[float, float], int]:
    """Image ``[H, W]``, spacing (rows, columns) in mm, frames per cardiac cycle."""
    content = read_bytes(path, "its contour is listed, unpack the set again")
    with naming(path, "DICOM", "unpack it again"):
        # Such a file says so, and pydicom unpacks it whole, whatever its size; to ask pydicom for the header of the
        # file would take as much memory as the header claims to need.
        if DeflatedExplicitVRLittleEndian.encode() in content:
            raise InputError(f"{path}: deflated DICOM is not read; convert it to explicit little endian")
        file = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" not in file:
            raise InputError(f"{path}: DICOM without pixel data; unpack the set again")
        shape = int(file.get("NumberOfFrames") or 1), int(file.Rows), int(file.Columns), int(file.SamplesPerPixel)
        check_size(path, shape)
        spacing = [float(v) for v in file.get("PixelSpacing") or ()]
        phases = int(file.get("CardiacNumberOfImages") or PHASES)
        if shape[0] != 1 or shape[3] != 1 or len(spacing) != 2 or phases < 1:
            raise InputError(
                f"{path}: expected one grey image with PixelSpacing, found {shape[0]} frames of {shape[3]} channels, "
                f"spacing {spacing}, {phases} images a cycle; unpack it again"
            )
        pixels = file.pixel_array
        if pixels.shape != shape[1:3]:
            raise InputError(f"{path}: holds {pixels.shape} pixels, its header says {shape[1:3]}; unpack it again")
    return as_float32(pixels), (spacing[0], spacing[1]), phases


def _read_contour(path: Path, shape: tuple[int, int]) -> np.ndarray:
    text = read_text(path, "unpack the patient again")
    with naming(path, "a contour of lines `x y`", "unpack the patient again"):
        points = np.array([line.split() for line in text.splitlines() if line.strip()], float)
    check_contour(points, shape, path)
    return fill_contour(points, shape)
