"""ACDC as distributed (Bernard et al. 2018): NIfTI, both the 2017 and the newer layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from prrmse.data.nifti import read_labels, read_nifti
from prrmse.data.volume import Volume, checked
from prrmse.errors import InputError

CLASSES = {1: "RV", 2: "myocardium", 3: "LV"}
SOURCE = "humanheart-project.creatis.insa-lyon.fr, data set ACDC (CC BY-NC-SA 4.0)"


def patient_folders(root: Path) -> list[Path]:
    """``patientNNN`` at the root, or below ``training`` or ``database/training``."""
    for folder in (root, root / "training", root / "database" / "training"):
        found = sorted(path for path in folder.glob("patient*") if path.is_dir())
        if found:
            return found
    return []


def files(root: Path) -> list[Path]:
    """Every file that `volumes` reads."""
    return [path for folder in patient_folders(root) for path in sorted(folder.glob("*")) if _is_read(path)]


def _is_read(path: Path) -> bool:
    return path.name == "Info.cfg" or ("_frame" in path.name and path.name.endswith((".nii.gz", ".nii")))


def volumes(root: Path) -> Iterator[Volume]:
    """ED and ES of every patient."""
    for folder in patient_folders(root):
        for phase, number in _frames(folder / "Info.cfg").items():
            image_path = _nifti(folder / f"{folder.name}_frame{number:02d}")
            image, spacing = read_nifti(image_path)
            label = read_labels(_nifti(folder / f"{folder.name}_frame{number:02d}_gt"))
            ids = list(range(len(image)))
            volume = Volume(folder.name, phase, image.astype(np.float32), label, spacing, ids, image_path)
            yield checked(volume, CLASSES)


def _nifti(stem: Path) -> Path:
    plain = stem.with_name(stem.name + ".nii")
    return plain if plain.is_file() else stem.with_name(stem.name + ".nii.gz")


def _frames(info: Path) -> dict[str, int]:
    """Frame numbers of ED and ES."""
    try:
        lines = info.read_text().splitlines()
    except FileNotFoundError:
        raise InputError(f"{info}: no such file; it names the ED and ES frames, download the patient again") from None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    try:
        return {phase: int(values[phase]) for phase in ("ED", "ES")}
    except (KeyError, ValueError):
        raise InputError(f"{info}: must hold the lines `ED: number` and `ES: number`") from None
