"""Raw data set in, processed slices out; every check on the way."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd

from prrmse.data import acdc, nnunet, rvsc, t1
from prrmse.data.patients import within_another
from prrmse.data.process import MAX_ZOOM, Grid, middle_slices, normalise, resample
from prrmse.data.reading import one_line
from prrmse.data.slices import IGNORE, SPLITS, Slices
from prrmse.data.split import split_patients
from prrmse.data.volume import Volume
from prrmse.errors import InputError
from prrmse.files import digest_of
from prrmse.settings import Dataset

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


class Contents(NamedTuple):
    """What a network must take: image channels, and classes with the background."""

    channels: int
    classes: int


def check(name: str, dataset: Dataset) -> Contents:
    """Pre-flight: the root exists and holds the layout. Cheap; `prepare` opens every file.

    Args:
        name: of the data set.
        dataset: its settings.

    Raises:
        InputError: names the setting, and where the data can be had.
    """
    root, reader = Path(dataset.root), READERS[dataset.format]
    with _naming_files(root):
        if not os.path.exists(root):  # noqa: PTH110 - Path.exists raises for a name that no file can have
            raise InputError(
                f"<root:{name}>: {root} does not exist; set it to the data set's folder (to be had from "
                f"{reader.SOURCE}), or in params.yaml add `phantom: {{patients: 60, seed: 0}}` beside it to run on a "
                "phantom"
            )
        if not reader.files(root):
            raise InputError(
                f"<root:{name}>: {root} holds no {dataset.format} data ({reader.LAYOUT}); set it to the folder that "
                f"does (to be had from {reader.SOURCE})"
            )
        if dataset.format != "nnunet":
            return Contents(1, max(_classes(dataset)) + 1)
        try:
            nnunet.check(root, dataset.case_pattern)
        except InputError as e:
            raise InputError(e.args[0].replace("<case_pattern>", f"<case_pattern:{name}>")) from None
        return Contents(nnunet.channels(root), max(_classes(dataset)) + 1)


@contextmanager
def _naming_files(root: Path) -> Iterator[None]:
    """What the system refuses (a folder without permission, a name too long) as one line."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (OSError, ValueError) as e:
        name = getattr(e, "filename", None) or root
        raise InputError(f"{name}: cannot be read ({one_line(e)}); check its links, permissions and size") from None


def _classes(dataset: Dataset) -> dict[int, str]:
    """Label -> name of the structure."""
    return nnunet.classes(Path(dataset.root)) if dataset.format == "nnunet" else CLASSES[dataset.format]


def raw_files(data_format: str, root: str | Path) -> list[str]:
    """Every file that `prepare` will read, sorted; none if the root is absent."""
    root = Path(root)
    with _naming_files(root):
        return sorted(str(path) for path in READERS[data_format].files(root)) if root.exists() else []


def prepare(name: str, dataset: Dataset) -> Slices:
    """Read, check, split and process a data set.

    Args:
        name: of the data set.
        dataset: its settings.

    Raises:
        InputError: one line naming the file or setting, the reason and what to do.
    """
    check(name, dataset)
    with _naming_files(Path(dataset.root)):
        return _prepare(name, dataset)


def _prepare(name: str, dataset: Dataset) -> Slices:
    root, reader = Path(dataset.root), READERS[dataset.format]
    classes = _classes(dataset)
    files = reader.files(root)
    grid = Grid(dataset.spacing_mm, dataset.size, dataset.crop)
    images, labels, rows = [], [], []
    folders: dict[str, str | None] = {}
    frames: set[str] = set()
    if dataset.format == "nnunet":
        tell_patients(name, nnunet.patients(root, dataset.case_pattern), dataset.case_pattern)
        volumes = nnunet.volumes(root, dataset.case_pattern)
    else:
        volumes = reader.volumes(root)
    for volume in volumes:
        if folders.setdefault(volume.patient, volume.folder_split) != volume.folder_split:
            raise InputError(
                f"{volume.source}: patient {volume.patient} is in two splits, {folders[volume.patient]} and "
                f"{volume.folder_split}; remove one of the two folders"
            )
        if dataset.patients and len(folders) > dataset.patients:
            del folders[volume.patient]
            break
        frames.add(volume.frame)
        if dataset.frames and volume.frame not in dataset.frames:
            continue
        _check_zoom(name, volume, grid)
        keep = middle_slices(len(volume.image), dataset.max_slices_per_volume)
        image, label = resample(volume.image[keep], volume.label[keep], volume.spacing_mm, grid)
        # Of a slice that is ignored whole nothing can be learnt; its padding counts as background, which says nothing.
        known = (volume.label[keep] != IGNORE).any((1, 2)) & (label != IGNORE).any((1, 2))
        images.append(normalise(image[known]))
        labels.append(label[known])
        ids = zip(volume.slice_ids[keep], known, strict=True)
        rows += [(volume.patient, volume.frame, i) for i, is_known in ids if is_known]
    if not folders:
        raise InputError(f"{root}: holds no patients; download it again")
    unknown = sorted(set(dataset.frames or ()) - frames)
    if unknown:
        raise InputError(
            f"<frames:{name}>: {', '.join(unknown)} not in the data set; choose from {', '.join(sorted(frames))}"
        )
    split = split_patients(name, dataset.split, folders)
    index = pd.DataFrame(rows, columns=["patient", "frame", "slice"])
    if index.duplicated().any():
        row = index[index.duplicated()].iloc[0]
        where = f"{row['patient']}, frame {row['frame']}, slice {row['slice']}"
        raise InputError(f"{root}: {where} is there twice; remove one")
    index["split"] = index["patient"].map(split)
    used = np.flatnonzero(index["split"].notna().to_numpy())
    meta = {
        "dataset": name,
        "format": dataset.format,
        "provenance": dataset.provenance,
        "classes": {str(k): v for k, v in classes.items()},
        "spacing_mm": grid.spacing_mm,
        "split": dataset.split.model_dump(exclude_none=True),
        "raw": {"files": len(files), "sha256": digest_of(root, files)},
    }
    slices = Slices(np.concatenate(images), np.concatenate(labels), index, meta).take(used)
    log.info("prepare %s: %d slices of %d patients", name, len(slices.index), slices.index["patient"].nunique())
    return slices


def tell_patients(name: str, named: dict[str, tuple[str, str]], pattern: str | None) -> None:
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
            "case_pattern (--case-pattern), so that all of a patient's stay in one split",
            *(name, len(named)),
        )
    if not pattern and (alike := within_another(patients)):
        log.warning(
            "%s: %s and %s count as two patients, who may be in different splits%s; if they are one, set case_pattern "
            "(--case-pattern)",
            *(name, *alike[0], f", and so do {len(alike) - 1} more pairs" if len(alike) > 1 else ""),
        )


def _check_zoom(name: str, volume: Volume, grid: Grid) -> None:
    """Refuse pixels that cannot be meant: of 1e-6 mm, the smoothing would never end."""
    if not all(1 / MAX_ZOOM <= spacing / grid.spacing_mm <= MAX_ZOOM for spacing in volume.spacing_mm):
        raise InputError(
            f"{volume.source}: pixels of {volume.spacing_mm[0]:g} x {volume.spacing_mm[1]:g} mm are more than "
            f"{MAX_ZOOM} times finer or coarser than <spacing_mm:{name}> {grid.spacing_mm:g}; fix the header's "
            "unit, or change that"
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
