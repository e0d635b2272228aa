"""Minimal writers of the distributed formats, independent of the phantoms: an unequal rectangle of known place."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

# Rows 10 to 15 and columns 20 to 31 of an image with more rows than columns: no flip or turn goes unseen.
TOP, BOTTOM, LEFT, RIGHT = 10, 15, 20, 31
SHAPE = (64, 48)


def picture(shape: tuple[int, int] = SHAPE, value: int = 100) -> np.ndarray:
    """The rectangle on a ramp that grows with row and column."""
    rows, columns = np.indices(shape)
    image = rows + 0.1 * columns
    image[TOP : BOTTOM + 1, LEFT : RIGHT + 1] += value
    return image


def outline(margin: float = 0.0) -> np.ndarray:
    """Corners ``x y`` around the rectangle, half a pixel outside its outer pixel centres, plus a margin."""
    low_x, high_x = LEFT - 0.5 - margin, RIGHT + 0.5 + margin
    low_y, high_y = TOP - 0.5 - margin, BOTTOM + 0.5 + margin
    return np.array([[low_x, low_y], [high_x, low_y], [high_x, high_y], [low_x, high_y]])


def write_nifti(path: Path, voxels: np.ndarray, spacing: tuple[float, float] = (1.5, 1.25)) -> None:
    """``[Z, rows, columns]`` to NIfTI's x, y, z; spacing of rows, columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-spacing[1], -spacing[0], 10.0, 1.0])
    nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), affine), path)


def rectangle_volume(slices: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Image (int16) and label (uint8): slice z holds label z + 1."""
    label = np.zeros((slices, *SHAPE), np.uint8)
    for z in range(slices):
        label[z, TOP : BOTTOM + 1, LEFT : RIGHT + 1] = z % 3 + 1
    return np.stack([np.rint(picture())] * slices).astype(np.int16), label


def write_acdc_patient(folder: Path, ed: int = 1, es: int = 12, labels: bool = True) -> None:
    """One patient with ED and ES."""
    image, label = rectangle_volume()
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n")
    write_nifti(folder / f"{folder.name}_4d.nii.gz", image)
    for frame in (ed, es):
        write_nifti(folder / f"{folder.name}_frame{frame:02d}.nii.gz", image)
        if labels:
            write_nifti(folder / f"{folder.name}_frame{frame:02d}_gt.nii.gz", label)


def write_rvsc_patient(
    parent: Path,
    number: int,
    frames: tuple[int, ...] = (80, 87, 100),
    shape: tuple[int, int] = SHAPE,
    contours: Path | None = None,
    phases: int | None = 20,
) -> None:
    """One patient: inner contour around the rectangle, outer contour two pixels farther out."""
    name = f"P{number:02d}"
    folder = parent / f"patient{number:02d}"
    apart = (contours or folder) / f"{name}contours-manual"
    (folder / f"{name}dicom").mkdir(parents=True)
    apart.mkdir(parents=True)
    lines = []
    for frame in frames:
        write_dicom(folder / f"{name}dicom" / f"{name}-{frame:04d}.dcm", picture(shape), phases)
        for kind, margin in (("i", 0.0), ("o", 2.0)):
            file = f"{name}-{frame:04d}-{kind}contour-manual.txt"
            np.savetxt(apart / file, outline(margin), fmt="%.6f")
            lines.append(f".\\patient{number:02d}\\{name}contours-manual\\{file}\r\n")
    (folder / f"{name}list.txt").write_text("".join(lines), newline="")


def write_dicom(path: Path, image: np.ndarray, phases: int | None = 20) -> None:
    """A grey image with rows of 1.5 mm and columns of 1.25 mm."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3.4"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = MRImageStorage, "1.2.3.4", "MR"
    if phases:
        file.CardiacNumberOfImages = phases
    file.Rows, file.Columns = image.shape
    file.PixelSpacing = [1.5, 1.25]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 0
    file.PixelData = np.rint(image).astype("<u2").tobytes()
    file.save_as(path, enforce_file_format=True)


def write_t1(path: Path, patients: int, slices: int = 2, times: int = 11) -> None:
    """MATLAB v7.3: axes reversed on disk; endo is the rectangle, epi lies two pixels farther out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        references = {
            name: file.create_dataset(f"Dataset/{name}", (1, patients), h5py.ref_dtype)
            for name in ("Img", "SliceLocation", "TriggerTime", "EpiContours", "EndoContours")
        }
        for p in range(patients):
            matlab = {
                "Img": np.stack([[picture(value=100 + t) for _ in range(slices)] for t in range(times)]),
                "EpiContours": np.broadcast_to(outline(2.0), (times, slices, 4, 2)),
                "EndoContours": np.broadcast_to(outline(), (times, slices, 4, 2)),
            }
            # (time, slice, row, column) -> MATLAB's (row, column, time, slice), reversed: (slice, time, column, row)
            values = {name: array.transpose(1, 0, 3, 2) for name, array in matlab.items()}
            values["TriggerTime"] = np.tile(100.0 * np.arange(times), (slices, 1))
            values["SliceLocation"] = np.arange(slices, dtype=float)[:, None]
            for name, value in values.items():
                file[f"#refs#/{name}{p}"] = value
                references[name][0, p] = file[f"#refs#/{name}{p}"].ref


def write_decathlon(root: Path, cases: int = 4) -> None:
    """Medical Segmentation Decathlon: no channel suffix, labels numbered in the description."""
    image, label = rectangle_volume()
    for case in range(cases):
        write_nifti(root / "imagesTr" / f"heart_{case:03d}.nii.gz", image)
        write_nifti(root / "labelsTr" / f"heart_{case:03d}.nii.gz", label)
    labels = {"0": "background", "1": "first", "2": "second", "3": "third"}
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": labels}))
