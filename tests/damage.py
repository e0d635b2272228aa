"""Small data sets in every layout, and seeded damage to their files."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import tifffile
from cohorts import write_acdc_patient, write_rvsc_patient, write_t1
from PIL import Image

from prrmse.data.slices import Slices, save_slices

LABELS = {"background": 0, "a": 1, "b": 2}


def small(slices: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Image (uint8) and label of 12 rows and 10 columns; slice z holds label z + 1."""
    rows, columns = np.indices((12, 10))
    image = np.stack([10 * rows + columns + 5 * z for z in range(slices)]).astype(np.uint8)
    label = np.zeros_like(image)
    for z in range(slices):
        label[z, 3:8, 2:6] = z % 2 + 1
    return image, label


def write_nnunet(root: Path, ending: str, cases: tuple[str, ...] = ("p1", "p2"), **info: object) -> Path:
    """The layout of nnU-Net v2 with files of this ending, of 1.5 x 1.25 mm where they can say so."""
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image, label = small()
    for case in cases:
        write_image(root / "imagesTr" / f"{case}_0000{ending}", image)
        write_image(root / "labelsTr" / f"{case}{ending}", label)
    found = {"channel_names": {"0": "MR"}, "labels": LABELS, "file_ending": ending, **info}
    (root / "dataset.json").write_text(json.dumps(found))
    return root


def write_image(path: Path, voxels: np.ndarray, spacing: tuple[float, float, float] = (10.0, 1.5, 1.25)) -> None:
    """``[Z, rows, columns]`` in the format of the path's ending; a picture holds the first slice."""
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([*spacing[::-1], 1.0])), path)
    elif path.suffix in (".mha", ".nrrd"):
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing(spacing[::-1])
        sitk.WriteImage(image, str(path), useCompression=True)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, voxels, compression="zlib", photometric="minisblack")
    else:
        Image.fromarray(voxels[0]).save(path)


def write_all(root: Path) -> dict[str, tuple[Path, list[Path]]]:
    """A tiny data set of every kind: format and ending -> its root, and the files to damage."""
    found: dict[str, tuple[Path, list[Path]]] = {}
    for ending in (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".bmp", ".tif", ".tiff"):
        base = write_nnunet(root / f"nnunet{ending}", ending)
        found[f"nnunet{ending}"] = base, [base / "imagesTr" / f"p1_0000{ending}", base / "labelsTr" / f"p1{ending}"]
        if ending == ".tif":
            for folder in ("imagesTr", "labelsTr"):
                (base / folder / "p1.json").write_text('{"spacing": [10.0, 1.5, 1.25]}')
            found[f"nnunet{ending}"][1].append(base / "imagesTr" / "p1.json")
        if ending == ".nii":
            found[f"nnunet{ending}"][1].append(base / "dataset.json")
    base = root / "acdc"
    write_acdc_patient(base / "patient001")
    found["acdc"] = base, [base / "patient001" / name for name in ("Info.cfg", "patient001_frame01_gt.nii.gz")]
    base = root / "rvsc"
    write_rvsc_patient(base / "TrainingSet", 1, frames=(80, 87))
    folder = base / "TrainingSet" / "patient01"
    contour = folder / "P01contours-manual" / "P01-0080-icontour-manual.txt"
    found["rvsc"] = base, [folder / "P01dicom" / "P01-0080.dcm", contour, folder / "P01list.txt"]
    write_t1(root / "t1" / "T1.mat", patients=1, slices=1, times=2)
    found["t1"] = root / "t1", [root / "t1" / "T1.mat"]
    image, label = small()
    index = pd.DataFrame({"patient": ["p1", "p2"], "frame": "1", "slice": 0, "split": ["train", "val"]})
    meta = {"dataset": "d", "classes": {"1": "a", "2": "b"}, "spacing_mm": 1.0, "provenance": "phantom"}
    save_slices(Slices(image.astype(np.float32), label, index, meta), root / "processed.npz")
    found["processed"] = root / "processed.npz", [root / "processed.npz"]
    return found


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bits flipped, bytes overwritten, inserted or removed, or the end cut off; half the time near the start."""
    found = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        n = len(found)
        at = int(rng.integers(0, max(1, min(n, 400) if rng.random() < 0.5 else n)))
        size = int(rng.integers(1, 9))
        kind = rng.integers(0, 5)
        if kind == 0 and n:
            found[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            found[at : at + size] = rng.choice([b"\xff", b"\0", b"\x7f", b"9", b"-"]) * size
        elif kind == 2:
            found[at:at] = rng.bytes(size)
        elif kind == 3:
            del found[at : at + size]
        elif rng.random() < 0.3:
            del found[at:]
    return bytes(found)
