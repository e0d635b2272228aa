"""ACDC as distributed (Bernard et al. 2018): NIfTI, both the 2017 and the newer layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prrmse.data.nifti import read_nifti
from prrmse.data.reading import read_text
from prrmse.data.volume import ImageFile, Volume, as_float32, check_same_grid, checked, label_of
from prrmse.errors import InputError

CLASSES = {1: "RV", 2: "myocardium", 3: "LV"}
SOURCE = "humanheart-project.creatis.insa-lyon.fr, data set ACDC (CC BY-NC-SA 4.0)"
LAYOUT = "patientNNN/Info.cfg, at the root or below training or database/training"


def patient_folders(root: Path) -> list[tuple[Path, str | None]]:
    """(folder, split) of every patient: at the root, or below ``training``, itself perhaps in ``database``.

    Patients of a ``testing`` folder follow with the split "test", if their labels are there (the 2017
    release has none).
    """
    if found := _patients(root):
        return [(folder, None) for folder in found]
    for parent in (root, root / "database"):
        if found := _patients(parent / "training"):
            test = [folder for folder in _patients(parent / "testing") if any(folder.glob("*_gt.nii*"))]
            return [*((folder, "train") for folder in found), *((folder, "test") for folder in test)]
    return []


def _patients(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("patient*") if path.is_dir())


def files(root: Path) -> list[Path]:
    """Every file that `volumes` reads."""
    return [path for folder, _ in patient_folders(root) for path in sorted(folder.glob("*")) if _is_read(path)]


def _is_read(path: Path) -> bool:
    is_frame = path.name.startswith("patient") and "_frame" in path.name  # not macOS's ._patient...
    return path.name == "Info.cfg" or (is_frame and path.name.endswith((".nii.gz", ".nii")))


def volumes(root: Path) -> Iterator[Volume]:
    """ED and ES of every patient, training before testing.

    Raises:
        InputError: a file is missing, truncated or not what it should be.
    """
    for folder, split in patient_folders(root):
        for phase, number in _frames(folder / "Info.cfg").items():
            image, label = (_read(folder / f"{folder.name}_frame{number:02d}{suffix}") for suffix in ("", "_gt"))
            check_same_grid(image, label)
            pixels, classes = as_float32(image.pixels), label_of(label, {0: 0, **{c: c for c in CLASSES}})
            rows, columns = image.spacing_mm[1:] if image.spacing_mm else (1.0, 1.0)
            ids = list(range(len(pixels)))
            yield checked(Volume(folder.name, phase, pixels, classes, (rows, columns), ids, image.path, split))


def _read(stem: Path) -> ImageFile:
    plain = stem.with_name(stem.name + ".nii")
    found = read_nifti(plain if plain.is_file() else stem.with_name(stem.name + ".nii.gz"))
    if found.pixels.ndim != 3:
        raise InputError(
            f"{found.path}: shape {found.pixels.shape}, expected 3 dimensions (x, y, slice); export one frame"
        )
    return found


def _frames(info: Path) -> dict[str, int]:
    """Frame numbers of ED and ES, from lines such as ``ED: 1``."""
    lines = read_text(info, "it names the ED and ES frames, download the patient again").splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    try:
        return {phase: int(values[phase]) for phase in ("ED", "ES")}
    except (KeyError, ValueError):
        raise InputError(f"{info}: must hold the lines `ED: number` and `ES: number`; restore the file") from None
