"""Your own data, in the layout of nnU-Net v2 or of the Medical Segmentation Decathlon."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prrmse.data.itk import read_itk, require_simpleitk
from prrmse.data.natural import read_picture, read_tiff
from prrmse.data.nifti import read_nifti
from prrmse.data.patients import patients_of
from prrmse.data.reading import read_json
from prrmse.data.slices import IGNORE
from prrmse.data.volume import ImageFile, Volume, as_float32, check_same_grid, checked, label_of
from prrmse.errors import InputError

log = logging.getLogger(__name__)

SOURCE = "your own folder with dataset.json, imagesTr and labelsTr"
LAYOUT = "dataset.json, imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz"
# Names that tables use for something else.
RESERVED = ("background", "mean", "mean_with_background", "ignore", "patient", "class", "dice")

Read = Callable[[Path], ImageFile]
READERS: dict[str, Read] = {
    ".nii.gz": read_nifti,
    ".nii": read_nifti,
    ".mha": read_itk,
    ".nrrd": read_itk,
    ".png": read_picture,
    ".bmp": read_picture,
    ".tif": read_tiff,
    ".tiff": read_tiff,
}
# nnU-Net's classes, and the endings that they and we read. The first four read the same numbers as our own choice.
OVERWRITES = {
    "SimpleITKIO": (".nii.gz", ".mha", ".nrrd"),
    "NibabelIO": (".nii", ".nii.gz"),
    "NaturalImage2DIO": (".png", ".bmp", ".tif"),
    "Tiff3DIO": (".tif", ".tiff"),
    "NibabelIOWithReorient": (".nii", ".nii.gz"),
}


class Description(NamedTuple):
    """What ``dataset.json`` says.

    Attributes:
        classes: foreground class -> its name, from 1 without a gap.
        numbers: class of every value that a label file may hold, `IGNORE` for the label to ignore.
        channels: of an image.
        ending: of the files.
        reader: nnU-Net's name of the class that reads them, if any.
    """

    classes: dict[int, str]
    numbers: dict[int, int]
    channels: int
    ending: str
    reader: str | None

    @property
    def read(self) -> Read:
        """Reads one file."""
        return partial(read_nifti, canonical=True) if self.reader == "NibabelIOWithReorient" else READERS[self.ending]


def description(root: Path) -> Description:
    """``dataset.json``.

    Raises:
        InputError: absent, damaged, or it says what cannot be used.
    """
    path = root / "dataset.json"
    found = read_json(path, "the layout needs dataset.json, imagesTr and labelsTr")
    if not isinstance(found, dict) or not isinstance(found.get("labels"), dict):
        raise InputError(f"{path}: needs an object `labels` that maps names to numbers; add it")
    if "dataset" in found:
        raise InputError(f"{path}: lists its files under `dataset`, which is not read; lay them out as {LAYOUT}")
    names, numbers = _labels(path, found["labels"])
    channels = found.get("channel_names", found.get("modality", {"0": "image"}))
    if not isinstance(channels, dict | list) or not channels:
        raise InputError(f"{path}: channel_names must name the image channels, not {channels!r}; fix it")
    ending = found.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or ending not in READERS:
        raise InputError(
            f"{path}: file_ending {ending!r} is not read; known are {', '.join(READERS)}; convert the files"
        )
    reader = found.get("overwrite_image_reader_writer")
    reader = None if reader in (None, "None") else str(reader)
    if reader is not None and ending not in OVERWRITES.get(reader, ()):
        known = [name for name, endings in OVERWRITES.items() if ending in endings]
        raise InputError(
            f"{path}: overwrite_image_reader_writer {reader!r} is not known for {ending} files; known are "
            f"{', '.join(known)}; choose one or remove the key"
        )
    return Description(names, numbers, len(channels), ending, reader)


def _labels(path: Path, labels: dict[str, Any]) -> tuple[dict[int, str], dict[int, int]]:  # noqa: C901 (a check a branch)
    """Class -> name, and value in the files -> class; nnU-Net writes {name: value}, the Decathlon {value: name}."""
    decathlon = all(key.isdecimal() for key in labels) and not all(isinstance(v, int | list) for v in labels.values())
    pairs = [(v, k) if decathlon else (k, v) for k, v in labels.items()]
    names: dict[int, str] = {}
    for name, value in pairs:
        if isinstance(value, list | tuple):
            raise InputError(
                f"{path}: the label {name!r} is a region ({value}), but here each pixel has one class; turn regions "
                'into labels: in a copy of the folder, name each number of the files, e.g. {"edema": 1, "core": 2}'
            )
        if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, str) and value.isdecimal())):
            raise InputError(
                f"{path}: labels must map names to whole numbers from 0, not {name!r} to {value!r}; fix it"
            )
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise InputError(f"{path}: {name!r} is no name of a label; fix it")
        if not 0 <= int(value) < 2**31:
            raise InputError(f"{path}: label {name!r} has the number {value}; numbers start at 0; fix it")
        if int(value) in names:
            raise InputError(f"{path}: labels {names[int(value)]!r} and {name!r} have one number, {value}; fix it")
        if name in names.values():
            raise InputError(f"{path}: two labels are called {name!r}; give each a name of its own")
        names[int(value)] = name
    if names.get(0, "background").lower() != "background":
        raise InputError(f"{path}: label 0 must be the background, not {names[0]!r}; renumber the labels")
    ignored = [value for value, name in names.items() if name == "ignore" and value]
    foreground = sorted(set(names) - {0, *ignored})
    for value in foreground:
        if names[value].lower() in RESERVED:
            raise InputError(
                f"{path}: label {value} has the name {names[value]!r}, which tables use for something else; rename it"
            )
    if not foreground:
        raise InputError(f"{path}: labels names no foreground class; add one")
    if len(foreground) >= IGNORE:
        raise InputError(f"{path}: {len(foreground)} classes, more than the {IGNORE - 1} that fit; merge some")
    numbers = {0: 0, **{value: i + 1 for i, value in enumerate(foreground)}, **dict.fromkeys(ignored, IGNORE)}
    return {numbers[value]: names[value] for value in foreground}, numbers


def classes(root: Path) -> dict[int, str]:
    """Class -> name, in the order of the numbers in the files; gaps between those are closed."""
    return description(root).classes


def channels(root: Path) -> int:
    """Number of image channels."""
    return description(root).channels


class Case(NamedTuple):
    """A labelled case: one image per channel, or one that holds them all."""

    name: str
    images: list[Path]
    label: Path


def cases(root: Path) -> list[Case]:
    """Every case, by name.

    Raises:
        InputError: none, a label without its image, or an image without its label.
    """
    info = description(root)
    labels, images = (_files(root / folder, info.ending) for folder in ("labelsTr", "imagesTr"))
    if not labels:
        raise InputError(f"{root / 'labelsTr'}: holds no *{info.ending}; add labelled cases in {LAYOUT}")
    of: dict[str, dict[int, Path]] = {name: {} for name in labels}
    for name, path in images.items():
        numbered = re.fullmatch(r"(.+)_([0-9]{4})", name)
        if name in labels:
            of[name].setdefault(0, path)
        elif numbered and numbered[1] in labels:
            of[numbered[1]][int(numbered[2])] = path
        else:
            case = numbered[1] if numbered else name
            raise InputError(
                f"{path}: has no label; add {root / 'labelsTr' / (case + info.ending)} or remove the image"
            )
    found = []
    for name, label in labels.items():
        paths = of[name]
        if root / "imagesTr" / f"{name}{info.ending}" in paths.values():
            wanted = 1  # the Decathlon's one file of all channels
        elif READERS[info.ending] in (read_picture, read_tiff):
            wanted = max(paths, default=0) + 1  # a picture may hold several
        else:
            wanted = info.channels
        if missing := set(range(wanted)) - set(paths):
            absent = root / "imagesTr" / f"{name}_{min(missing):04d}{info.ending}"
            raise InputError(f"{label}: has no image; add {absent}")
        if max(paths) >= info.channels:
            raise InputError(
                f"{paths[max(paths)]}: is one channel more than dataset.json names ({info.channels}); fix channel_names"
            )
        found.append(Case(name, [path for _, path in sorted(paths.items())], label))
    return found


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Name without the ending -> file; macOS's ``._`` files are none."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {p.name.removesuffix(ending): p for p in paths if p.name.endswith(ending) and not p.name.startswith(".")}


def check(root: Path, pattern: str | None = None) -> None:
    """What can be said without opening an image: the layout, the pattern, and whether the files can be read here.

    Raises:
        InputError: as `cases` and `patients_of`; two cases count as one frame of one patient, which reading would find
            after minutes; or SimpleITK is wanted and absent.
    """
    seen: dict[tuple[str, str], str] = {}
    for case, found in patients(root, pattern).items():
        other = seen.setdefault(found, case)
        if other != case:
            patient, frame = found
            raise InputError(
                f"<case_pattern>: the cases {other} and {case} are both frame {frame} of patient {patient}; "
                "have a group `frame` find what tells them apart, e.g. (?P<patient>patient\\d+)_(?P<frame>.+)"
            )
    if description(root).ending in (".mha", ".nrrd"):
        require_simpleitk(root)


def files(root: Path) -> list[Path]:
    """Every file that `volumes` reads."""
    found = [root / "dataset.json"]
    for case in cases(root):
        found += [*case.images, case.label]
        found += [path for path in map(_spacing_file, (case.images[0], case.label), (case.name,) * 2) if path.exists()]
    return found


def patients(root: Path, pattern: str | None = None) -> dict[str, tuple[str, str]]:
    """Patient and frame of every case, by `patients_of`."""
    return patients_of((case.name for case in cases(root)), pattern)


def volumes(root: Path, pattern: str | None = None) -> Iterator[Volume]:
    """Every case as one volume, sliced along its last axis as stored (the first of a TIFF stack).

    Args:
        root: of the data set.
        pattern: of `patients_of`.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others of its case.
    """
    info = description(root)
    named = patients(root, pattern)
    told = False
    for case in cases(root):
        parts = [_read(info, path, case.name) for path in case.images]
        label = _read(info, case.label, case.name)
        for other in (*parts[1:], label):
            check_same_grid(parts[0], other)
        image = _stacked([part.pixels for part in parts])
        found = image.shape[1] if image.ndim == 4 else 1
        if found != info.channels:
            raise InputError(
                f"{case.images[0]}: the case has {found} channels, dataset.json names {info.channels}; fix "
                "channel_names (an image of colours has 3, with transparency 4)"
            )
        if parts[0].spacing_mm is None and not told:
            log.warning("%s: its files name no spacing; a pixel counts as 1 mm", root)
            told = True
        rows, columns = (parts[0].spacing_mm or (1.0, 1.0, 1.0))[1:]
        yield checked(
            Volume(
                *named[case.name],
                as_float32(image),
                label_of(label, info.numbers),
                (rows, columns),
                list(range(len(image))),
                case.images[0],
            )
        )


def _stacked(parts: list[np.ndarray[Any, np.dtype[Any]]]) -> np.ndarray[Any, np.dtype[Any]]:
    """``[Z, H, W]`` of one grey channel, else ``[Z, C, H, W]``."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part if part.ndim == 4 else part[:, None] for part in parts], axis=1)


def _read(info: Description, path: Path, case: str) -> ImageFile:
    """One file; the spacing of a TIFF stack stands in ``CASE.json`` beside it."""
    file = info.read(path)
    if info.ending not in (".tif", ".tiff"):
        return file
    is_stack, is_colour = len(file.pixels) > 1, file.pixels.ndim == 4
    if (info.reader == "Tiff3DIO" and is_colour) or (info.reader == "NaturalImage2DIO" and is_stack):
        raise InputError(
            f"{path}: holds {'a stack' if is_stack else 'colours'}, but dataset.json asks for {info.reader}; remove "
            "overwrite_image_reader_writer"
        )
    aside = _spacing_file(path, case)
    if info.reader == "NaturalImage2DIO" or is_colour or not aside.exists():
        return file
    found = read_json(aside, "it names the spacing of the stack")
    spacing = found.get("spacing") if isinstance(found, dict) else None
    if not isinstance(spacing, list) or len(spacing) != 3 or not all(_is_length(v) for v in spacing):
        raise InputError(
            f'{aside}: must hold "spacing": [between slices, rows, columns] in mm, all positive; found {spacing!r}'
        )
    return file._replace(spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])))


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


def _spacing_file(path: Path, case: str) -> Path:
    return path.with_name(f"{case}.json")
