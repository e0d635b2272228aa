"""Phantom cohort in the layout of RVSC: DICOM images, contours of the RV as text, lists of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from skimage.measure import find_contours

from prrmse.phantom import anatomy, contrast
from prrmse.phantom.grid import levels, patient_rng, pixel_grid

LONG, SHORT, SLICES, PHASES, ES_PHASE = 128, 108, 6, 20, 7
UID_ROOT = "1.2.826.0.1.3680043.8.498"


def write(root: Path, patients: int, seed: int) -> None:
    """The first half in ``TrainingSet``, the rest in ``Test1Set`` with its contours apart, as released."""
    train = (patients + 1) // 2
    for number in range(1, patients + 1):
        name = "TrainingSet" if number <= train else "Test1Set"
        contours = root / (name if number <= train else "Test1SetContours")
        if number <= train:
            contours = contours / f"patient{number:02d}"
        _write_patient(root / name / f"patient{number:02d}", contours, number, seed)


def _write_patient(folder: Path, contour_parent: Path, number: int, seed: int) -> None:
    rng = patient_rng(seed, "rvsc", number)
    group = anatomy.GROUPS[int(rng.choice([1, 2, 3, 3, 4]))]
    patient, values = anatomy.draw_patient(rng, group), contrast.draw_cine_values(rng)
    # As in the release: most images are portrait, some are landscape.
    shape = (SHORT, LONG) if rng.uniform() < 0.25 else (LONG, SHORT)
    pixel = float(np.round(rng.uniform(1.36, 1.5), 4))
    x, y = pixel_grid(*shape, pixel)
    bias, gain = contrast.coil_bias(x, y, rng), rng.uniform(180, 260)
    name = f"P{number:02d}"
    dicom, contours = folder / f"{name}dicom", contour_parent / f"{name}contours-manual"
    dicom.mkdir(parents=True)
    contours.mkdir(parents=True)
    lines = []
    for position, level in enumerate(levels(SLICES)):
        for phase, systole in ((0, 0.0), (ES_PHASE, 1.0)):
            frame = position * PHASES + phase
            heart = anatomy.heart(patient, float(level), systole, x, y, shift=tuple(rng.normal(0, 0.8, 2)))
            shares = anatomy.tissues(patient, float(level), heart, x, y, pixel)
            image = contrast.acquire(contrast.cine(shares, values, rng) * bias, rng.uniform(0.03, 0.05), 0.6, rng)
            inner, outer = _outline(heart.rv_endo), _outline(heart.rv_epi)
            if inner is None or outer is None:
                continue
            _save_dicom(
                np.rint(image * gain).astype(np.uint16), pixel, number, frame, dicom / f"{name}-{frame:04d}.dcm"
            )
            for kind, points in (("i", inner), ("o", outer)):
                file = f"{name}-{frame:04d}-{kind}contour-manual.txt"
                text = "".join(f"{px:.6f} {py:.6f}\n" for px, py in points)
                (contours / file).write_text(text, newline="\n")
                lines.append(f".\\patient{number:02d}\\{name}contours-manual\\{file}\r\n")
    (folder / f"{name}list.txt").write_text("".join(lines), newline="")


def _outline(distance: np.ndarray) -> np.ndarray | None:
    """The longest zero line of a signed distance, as points (column, row); None if there is hardly any."""
    lines = find_contours(distance, 0.0)
    longest = max(lines, key=len, default=np.empty((0, 2)))
    return longest[:, ::-1] if len(longest) >= 12 else None


def _save_dicom(image: np.ndarray, pixel: float, patient: int, frame: int, path: Path) -> None:
    uid = UID(f"{UID_ROOT}.{patient}.{frame + 1}")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(UID_ROOT)
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = MRImageStorage, uid
    file.StudyInstanceUID, file.SeriesInstanceUID = f"{UID_ROOT}.{patient}", f"{UID_ROOT}.{patient}.0"
    file.PatientName, file.PatientID, file.Modality = "PHANTOM", f"P{patient:02d}", "MR"
    file.SeriesDescription, file.InstanceNumber = "prrmse phantom, cine", frame + 1
    file.CardiacNumberOfImages = PHASES
    file.Rows, file.Columns = image.shape
    file.PixelSpacing, file.SliceThickness, file.SpacingBetweenSlices = [pixel, pixel], 7.0, 8.4
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 0
    file.PixelData = image.astype("<u2").tobytes()
    file.save_as(path, enforce_file_format=True)
