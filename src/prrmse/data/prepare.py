"""Raw data set in, processed slices out; every check on the way."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from prrmse.data import acdc, nnunet, rvsc, t1
from prrmse.data.process import MAX_ZOOM, Grid, middle_slices, normalise, resample
from prrmse.data.reading import one_line
from prrmse.data.slices import IGNORE, SPLITS, Slices
from prrmse.data.split import split_patients
from prrmse.data.volume import Volume
from prrmse.errors import InputError
from prrmse.files import digest_of

log = logging.getLogger(__name__)


class Reader(Protocol):
    """What a module that reads a format offers."""

    SOURCE: str
    LAYOUT: str

    def files(self, root: Path) -> list[Path]:
        """Every file that is read."""
        ...

    def volumes(self, root: Path) -> Iterator[Volume]:
        """All volumes."""
        ...


READERS: dict[str, Reader] = {"acdc": acdc, "rvsc": rvsc, "t1": t1, "nnunet": nnunet}
CLASSES = {"acdc": acdc.CLASSES, "rvsc": rvsc.CLASSES, "t1": t1.CLASSES}
MAX_SIZE = 4096


class Contents(NamedTuple):
    """What a network must take: image channels, and classes with the background."""

    channels: int
    classes: int


def check(name: str, spec: dict[str, Any]) -> Contents:
    """Pre-flight: the root exists and holds the layout. Cheap; `prepare` opens every file.

    Raises:
        InputError: names the key, and where the data can be had.
    """
    root, reader = Path(spec["root"]), READERS[spec["format"]]
    key = f"datasets.{name}.root"
    if not (math.isfinite(spec["spacing_mm"]) and spec["spacing_mm"] > 0):
        raise InputError(f"datasets.{name}.spacing_mm: {spec['spacing_mm']} is no positive number of mm; change it")
    if not 1 <= spec["size"] <= MAX_SIZE:
        raise InputError(f"datasets.{name}.size: {spec['size']} is not between 1 and {MAX_SIZE} pixels; change it")
    with _naming_files(root):
        if not root.exists():
            raise InputError(
                f"{key}: {root} does not exist; set {key} in params.yaml to the data set's folder (to be had from "
                f"{reader.SOURCE}), or add `phantom: {{patients: 60, seed: 0}}` beside it to run on a phantom"
            )
        if not reader.files(root):
            raise InputError(
                f"{key}: {root} holds no {spec['format']} data ({reader.LAYOUT}); set {key} in params.yaml to the "
                f"folder that does (to be had from {reader.SOURCE})"
            )
        classes = max(_classes(spec)) + 1
        if spec["format"] != "nnunet":
            return Contents(1, classes)
        try:
            nnunet.check(root, spec.get("case_pattern"))
        except InputError as e:
            raise InputError(f"datasets.{name}.{e}" if str(e).startswith("case_pattern") else str(e)) from None
        return Contents(nnunet.channels(root), classes)


@contextmanager
def _naming_files(root: Path) -> Iterator[None]:
    """What the system refuses (a folder without permission, a name too long) as one line."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, MemoryError) as e:
        name = getattr(e, "filename", None) or root
        raise InputError(f"{name}: cannot be read ({one_line(e)}); check its links, permissions and size") from None


def _classes(spec: dict[str, Any]) -> dict[int, str]:
    """Label -> name of the structure."""
    if spec["format"] == "nnunet":
        return nnunet.classes(Path(spec["root"]))
    return CLASSES[spec["format"]]


def raw_files(spec: dict[str, Any]) -> list[str]:
    """Every file that `prepare` will read, sorted; none if the root is absent."""
    root = Path(spec["root"])
    with _naming_files(root):
        return sorted(str(path) for path in READERS[spec["format"]].files(root)) if root.exists() else []


def prepare(name: str, spec: dict[str, Any]) -> Slices:
    """Read, check, split and process a data set.

    Args:
        name: of the data set.
        spec: ``datasets.*`` of params.

    Raises:
        InputError: one line naming the file or key, the reason and what to do.
    """
    check(name, spec)
    with _naming_files(Path(spec["root"])):
        return _prepare(name, spec)


def _prepare(name: str, spec: dict[str, Any]) -> Slices:
    root, reader = Path(spec["root"]), READERS[spec["format"]]
    classes = _classes(spec)
    files = reader.files(root)
    grid = Grid(spec["spacing_mm"], spec["size"], spec["crop"])
    images, labels, rows = [], [], []
    folders: dict[str, str | None] = {}
    frames: set[str] = set()
    if spec["format"] == "nnunet":
        _tell_patients(name, nnunet.patients(root, spec.get("case_pattern")), spec.get("case_pattern"))
        volumes = nnunet.volumes(root, spec.get("case_pattern"))
    else:
        volumes = reader.volumes(root)
    for volume in volumes:
        if folders.setdefault(volume.patient, volume.folder_split) != volume.folder_split:
            raise InputError(
                f"{volume.source}: patient {volume.patient} is in two splits, {folders[volume.patient]} and "
                f"{volume.folder_split}; remove one of the two folders"
            )
        if spec.get("patients") and len(folders) > spec["patients"]:
            del folders[volume.patient]
            break
        frames.add(volume.frame)
        if spec.get("frames") and volume.frame not in spec["frames"]:
            continue
        _check_zoom(volume, grid)
        keep = middle_slices(len(volume.image), spec.get("max_slices_per_volume"))
        image, label = resample(volume.image[keep], volume.label[keep], volume.spacing_mm, grid)
        # Of a slice that is ignored whole nothing can be learnt; its padding counts as background, which says nothing.
        known = (volume.label[keep] != IGNORE).any((1, 2)) & (label != IGNORE).any((1, 2))
        images.append(normalise(image[known]))
        labels.append(label[known])
        ids = zip(volume.slice_ids[keep], known, strict=True)
        rows += [(volume.patient, volume.frame, i) for i, is_known in ids if is_known]
    unknown = sorted(set(spec.get("frames") or ()) - frames)
    if unknown:
        raise InputError(
            f"datasets.{name}.frames: {', '.join(unknown)} not in the data set; choose from {', '.join(sorted(frames))}"
        )
    split = split_patients(name, spec["split"], folders)
    index = pd.DataFrame(rows, columns=["patient", "frame", "slice"])
    if index.duplicated().any():
        row = index[index.duplicated()].iloc[0]
        where = f"{row['patient']}, frame {row['frame']}, slice {row['slice']}"
        raise InputError(f"{root}: {where} is there twice; remove one")
    index["split"] = index["patient"].map(split)
    used = np.flatnonzero(index["split"].notna().to_numpy())
    meta = {
        "dataset": name,
        "format": spec["format"],
        "provenance": spec["provenance"],
        "classes": {str(k): v for k, v in classes.items()},
        "spacing_mm": grid.spacing_mm,
        "split": spec["split"],
        "raw": {"files": len(files), "sha256": digest_of(root, files)},
    }
    slices = Slices(np.concatenate(images), np.concatenate(labels), index, meta).take(used)
    log.info("prepare %s: %d slices of %d patients", name, len(slices.index), slices.index["patient"].nunique())
    return slices


def _tell_patients(name: str, named: dict[str, tuple[str, str]], pattern: str | None) -> None:
    """One line on who counts as a patient: frames of one patient in two splits would make Dice too good."""
    patients = {patient for patient, _ in named.values()}
    how = f"by case_pattern {pattern}" if pattern else "by common endings of their names (frame, visit, slice)"
    if len(patients) < len(named) or pattern:
        case, (patient, frame) = next((x for x in named.items() if x[0] != x[1][0]), next(iter(named.items())))
        log.info(
            "%s: %d cases of %d patients, told apart %s; e.g. %s is frame %s of %s",
            *(name, len(named), len(patients), how, case, frame, patient),
        )
    else:
        log.warning(
            "%s: each of the %d cases counts as a patient of its own; if patients have several cases, set "
            "datasets.%s.case_pattern, so that a patient's cases stay in one split",
            *(name, len(named), name),
        )


def _check_zoom(volume: Volume, grid: Grid) -> None:
    """Refuse pixels that cannot be meant: of 1e-6 mm, the smoothing would never end."""
    if not all(1 / MAX_ZOOM <= spacing / grid.spacing_mm <= MAX_ZOOM for spacing in volume.spacing_mm):
        raise InputError(
            f"{volume.source}: pixels of {volume.spacing_mm[0]:g} x {volume.spacing_mm[1]:g} mm are more than "
            f"{MAX_ZOOM} times finer or coarser than spacing_mm: {grid.spacing_mm:g}; mend the header's "
            "unit, or change spacing_mm"
        )


def summary(slices: Slices) -> pd.DataFrame:
    """One row per split and class: dataset, provenance, split, patients, slices, class, pixel_fraction."""
    rows = []
    for split in SPLITS:
        part = slices.split(split)
        for number, name in slices.classes.items() if len(part.index) else ():
            rows.append(
                {
                    "dataset": slices.meta["dataset"],
                    "provenance": slices.meta["provenance"],
                    "split": split,
                    "patients": len(part.patients()),
                    "slices": len(part.index),
                    "class": name,
                    "pixel_fraction": float((part.label == number).sum() / max(1, (part.label != IGNORE).sum())),
                }
            )
    return pd.DataFrame(rows)
