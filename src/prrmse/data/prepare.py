"""Raw data set in, processed slices out; every check on the way."""

from __future__ import annotations

import logging
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prrmse.data import acdc, nnunet, rvsc, t1
from prrmse.data.process import Grid, middle_slices, normalise, resample
from prrmse.data.slices import SPLITS, Slices
from prrmse.data.split import split_patients
from prrmse.errors import InputError
from prrmse.files import digest_of

log = logging.getLogger(__name__)

READERS: dict[str, ModuleType] = {"acdc": acdc, "rvsc": rvsc, "t1": t1, "nnunet": nnunet}


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
    if not root.exists():
        raise InputError(
            f"{key}: {root} does not exist; set {key} in params.yaml to the data set's folder (to be had from "
            f"{reader.SOURCE}), or add `phantom: {{patients: 60, seed: 0}}` beside it to run on a phantom"
        )
    if not reader.files(root):
        raise InputError(
            f"{key}: {root} holds no {spec['format']} data ({reader.LAYOUT}); set {key} in params.yaml to the folder "
            f"that does (to be had from {reader.SOURCE})"
        )
    classes = max(_classes(spec)) + 1
    if spec["format"] != "nnunet":
        return Contents(1, classes)
    cases = nnunet.cases(root)
    try:
        for case, _, _ in cases:
            nnunet.patient_and_frame(case, spec.get("case_pattern"))
    except InputError as e:
        raise InputError(f"datasets.{name}.{e}") from None
    return Contents(nnunet.channels(root), classes)


def _classes(spec: dict[str, Any]) -> dict[int, str]:
    """Label -> name of the structure."""
    if spec["format"] == "nnunet":
        return nnunet.classes(Path(spec["root"]))
    return dict(READERS[spec["format"]].CLASSES)


def raw_files(spec: dict[str, Any]) -> list[str]:
    """Every file that `prepare` will read, sorted; none if the root is absent."""
    root = Path(spec["root"])
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
    root, reader = Path(spec["root"]), READERS[spec["format"]]
    classes = _classes(spec)
    files = reader.files(root)
    grid = Grid(spec["spacing_mm"], spec["size"], spec["crop"])
    images, labels, rows = [], [], []
    folders: dict[str, str | None] = {}
    frames: set[str] = set()
    own = {"pattern": spec.get("case_pattern")} if spec["format"] == "nnunet" else {}
    for volume in reader.volumes(root, **own):
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
        keep = middle_slices(len(volume.image), spec.get("max_slices_per_volume"))
        image, label = resample(volume.image[keep], volume.label[keep], volume.spacing_mm, grid)
        images.append(normalise(image))
        labels.append(label)
        rows += [(volume.patient, volume.frame, i) for i in volume.slice_ids[keep]]
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
                    "pixel_fraction": float((part.label == number).mean()),
                }
            )
    return pd.DataFrame(rows)
