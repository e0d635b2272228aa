"""Your own data, in the layout of nnU-Net v2 or of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prrmse.data.nifti import read_labels, read_nifti
from prrmse.data.volume import Volume, checked
from prrmse.errors import InputError

SOURCE = "your own folder with dataset.json, imagesTr and labelsTr"
LAYOUT = "dataset.json, imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz"


def description(root: Path) -> dict[str, Any]:
    """``dataset.json``."""
    path = root / "dataset.json"
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the layout needs dataset.json, imagesTr and labelsTr") from None
    except ValueError as e:
        raise InputError(f"{path}: not valid JSON: {e}; mend the file") from None
    if not isinstance(found, dict) or not isinstance(found.get("labels"), dict):
        raise InputError(f"{path}: needs an object `labels` that maps names to numbers; add it")
    return found


def classes(root: Path) -> dict[int, str]:
    """Label -> name; nnU-Net writes {name: number}, the Decathlon {number: name}."""
    labels = description(root)["labels"]
    try:
        pairs = [(int(k), v) if str(k).isdigit() else (int(v), k) for k, v in labels.items()]
    except (TypeError, ValueError):
        raise InputError(
            f"{root / 'dataset.json'}: labels must map names to whole numbers; turn regions into labels"
        ) from None
    found = {number: str(name) for number, name in sorted(pairs) if number > 0}
    if not found:
        raise InputError(f"{root / 'dataset.json'}: labels names no foreground class; add one")
    return found


def cases(root: Path) -> list[tuple[str, Path, Path]]:
    """(case, image, label) of every labelled case.

    Raises:
        InputError: several channels, no label, or a label without its image.
    """
    info = description(root)
    channels = info.get("channel_names", info.get("modality", {"0": "image"}))
    if not isinstance(channels, dict | list) or len(channels) != 1:
        count = len(channels) if isinstance(channels, dict | list) else channels
        raise InputError(f"{root / 'dataset.json'}: {count} image channels; one is supported, export one")
    ending = info.get("file_ending", ".nii.gz")
    found = []
    for label in sorted((root / "labelsTr").glob(f"*{ending}")):
        case = label.name.removesuffix(ending)
        if case.startswith("."):
            continue
        names = [f"{case}_0000{ending}", f"{case}{ending}"]
        image = next((root / "imagesTr" / n for n in names if (root / "imagesTr" / n).is_file()), None)
        if image is None:
            raise InputError(f"{label}: has no image; add {root / 'imagesTr' / names[0]}")
        found.append((case, image, label))
    if not found:
        raise InputError(f"{root / 'labelsTr'}: holds no *{ending}; add labelled cases in {LAYOUT}")
    return found


def files(root: Path) -> list[Path]:
    """Every file that `volumes` reads."""
    return [root / "dataset.json", *(path for _, image, label in cases(root) for path in (image, label))]


def volumes(root: Path) -> Iterator[Volume]:
    """Every case as one volume, sliced along its last axis; a case counts as one patient."""
    known = classes(root)
    for case, image_path, label_path in cases(root):
        image, spacing = read_nifti(image_path)
        label = read_labels(label_path)
        ids = list(range(len(image)))
        pixels = image.astype(np.float32)
        yield checked(Volume(case, "1", pixels, label, spacing, ids, image_path, label_source=label_path), known)
