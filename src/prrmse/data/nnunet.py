"""Your own data, in the layout of nnU-Net v2 or of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
import re
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


def channels(root: Path) -> int:
    """Number of image channels."""
    info = description(root)
    found = info.get("channel_names", info.get("modality", {"0": "image"}))
    if not isinstance(found, dict | list) or not found:
        raise InputError(f"{root / 'dataset.json'}: channel_names must name the image channels, not {found}; mend it")
    return len(found)


def cases(root: Path) -> list[tuple[str, list[Path], Path]]:
    """(case, image of every channel or one file that holds them all, label) of every labelled case.

    Raises:
        InputError: no label, or a label without its image.
    """
    ending = description(root).get("file_ending", ".nii.gz")
    number = channels(root)
    found = []
    for label in sorted((root / "labelsTr").glob(f"*{ending}")):
        case = label.name.removesuffix(ending)
        if case.startswith("."):
            continue
        images = [root / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(number)]
        missing = [image for image in images if not image.is_file()]
        whole = root / "imagesTr" / f"{case}{ending}"
        if missing and not whole.is_file():
            raise InputError(f"{label}: has no image; add {missing[0]}")
        found.append((case, [whole] if missing else images, label))
    if not found:
        raise InputError(f"{root / 'labelsTr'}: holds no *{ending}; add labelled cases in {LAYOUT}")
    return found


def files(root: Path) -> list[Path]:
    """Every file that `volumes` reads."""
    return [root / "dataset.json", *(path for _, image, label in cases(root) for path in (*image, label))]


def patient_and_frame(case: str, pattern: str | None) -> tuple[str, str]:
    """Ids from a case's name; without a pattern each case counts as one patient.

    Args:
        case: name of the case.
        pattern: regular expression with a group ``patient`` and, where patients have several cases, ``frame``.

    Raises:
        InputError: the pattern is none, or does not match.
    """
    if pattern is None:
        return case, "1"
    try:
        found = re.search(pattern, case)
        ids = found.groupdict() if found else {}
    except re.error as e:
        raise InputError(f"case_pattern: {pattern!r} is no regular expression ({e}); mend it") from None
    if not ids.get("patient"):
        raise InputError(
            f"case_pattern: {pattern!r} finds no group `patient` in the case {case!r}; write e.g. "
            r"(?P<patient>patient\d+)_(?P<frame>frame\d+)"
        )
    return ids["patient"], ids.get("frame") or "1"


def volumes(root: Path, pattern: str | None = None) -> Iterator[Volume]:
    """Every case as one volume, sliced along its last axis.

    Args:
        root: of the data set.
        pattern: of `patient_and_frame`.
    """
    known = classes(root)
    number = channels(root)
    for case, image_paths, label_path in cases(root):
        parts = [read_nifti(path, number if len(image_paths) < number else 1) for path in image_paths]
        for path, (image, spacing) in zip(image_paths, parts, strict=True):
            if (image.shape, spacing) != (parts[0][0].shape, parts[0][1]):
                raise InputError(
                    f"{path}: shape {image.shape} and spacing {spacing} mm differ from those of the case's first "
                    f"channel, {parts[0][0].shape} and {parts[0][1]}; resample the channels to one grid"
                )
        image, spacing = parts[0]
        if len(parts) > 1:
            image = np.stack([part for part, _ in parts], axis=1)
        label = read_labels(label_path)
        ids = list(range(len(image)))
        pixels = image.astype(np.float32)
        named = patient_and_frame(case, pattern)
        yield checked(Volume(*named, pixels, label, spacing, ids, image_paths[0], label_source=label_path), known)
