"""Phantom cohort in the layout of RVSC: DICOM images, contours of the RV as text, lists of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from skimage.measure import find_contours

from prrmse.phantom.cine import CineFrame, cine_frames
from prrmse.phantom.grid import patient_rng, slice_step_mm
from prrmse.phantom.options import RvscOptions
from prrmse.phantom.patient import GROUPS, draw_patient

PHASES = 20
# pydicom's own root, under which it makes UIDs from hashes.
_UID_ROOT = "1.2.826.0.1.3680043.8.498."
_FEWEST_POINTS = 12


def write_rvsc(root: Path, patients: int, seed: int, options: RvscOptions) -> None:
    """The first half in ``TrainingSet``, the rest in ``Test1Set`` with its contours apart, as released.

    Contours are closed polygons, one ``x y`` a line: column and row of the stored DICOM, where pixel centres are
    whole numbers from 0. i is the endocardium, o the epicardium of the RV. Of each cine only the labelled frames
    are written. A slice where the RV is too small for a contour has none, and no image.
    """
    train = (patients + 1) // 2
    for number in range(1, patients + 1):
        part, name = ("TrainingSet" if number <= train else "Test1Set"), f"patient{number:02d}"
        contours = root / part / name if number <= train else root / "Test1SetContours"
        _write_patient(root / part / name, contours, number, seed, options)


def _write_patient(folder: Path, contour_parent: Path, number: int, seed: int, options: RvscOptions) -> None:
    rng = patient_rng(seed, "rvsc", number)
    patient = draw_patient(rng, GROUPS[int(rng.choice([1, 2, 3, 3, 4]))])
    # The images of the release are zoomed, with the RV rather than the thorax in the middle.
    patient = replace(patient, centre=(patient.centre[0] + 16, patient.centre[1]))
    long, short = max(options.matrix), min(options.matrix)
    matrix = (short, long) if rng.uniform() < options.landscape else (long, short)
    pixel, gain, es = float(np.round(rng.uniform(1.36, 1.5), 4)), rng.uniform(170, 280), int(rng.integers(7, 10))
    step = slice_step_mm(patient.heart.length, options.slices)
    name = f"P{number:02d}"
    dicom, contours = folder / f"{name}dicom", contour_parent / f"{name}contours-manual"
    dicom.mkdir(parents=True)
    contours.mkdir(parents=True)
    lines = []
    stack = cine_frames(patient, matrix, options.slices, pixel, options.noise, options.myocardium_to_blood, rng)
    for frame in stack:
        outlines = {"i": _outline(frame.surfaces.rv_endo), "o": _outline(frame.surfaces.rv_epi)}
        if min(map(len, outlines.values())) < _FEWEST_POINTS:
            continue
        index = frame.position * PHASES + (0 if frame.phase == "ED" else es)
        stem = f"{name}-{index:04d}"
        _save_dicom(frame, gain, (pixel, step), (seed, number, index), dicom / f"{stem}.dcm")
        for kind, points in outlines.items():
            file = f"{stem}-{kind}contour-manual.txt"
            text = "".join(f"{px:.6f} {py:.6f}\n" for px, py in points)
            (contours / file).write_text(text, newline="\n")
            lines.append(f".\\{folder.name}\\{name}contours-manual\\{file}\r\n")
    (folder / f"{name}list.txt").write_text("".join(lines), newline="")


def _outline(distance: np.ndarray) -> np.ndarray:
    """The longest zero line of a distance, points (column, row) ``[n, 2]``."""
    found = find_contours(distance, 0.0)
    return max(found, key=len, default=np.empty((0, 2)))[:, ::-1]


def _save_dicom(
    frame: CineFrame, gain: float, spacing: tuple[float, float], identity: tuple[int, int, int], path: Path
) -> None:
    """A DICOM part 10 file; `spacing`: pixel and slice step in mm; `identity`: seed, patient, frame index."""
    seed, patient, index = identity
    image = np.rint(frame.image * gain).astype("<u2")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = _uid("image", seed, patient, index)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(f"{_UID_ROOT}1")
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    file.StudyInstanceUID, file.SeriesInstanceUID = _uid("study", seed, patient), _uid("series", seed, patient)
    file.FrameOfReferenceUID = _uid("frame", seed, patient)
    file.ImageType = ["DERIVED", "SECONDARY", "M"]
    file.StudyDate = file.StudyTime = file.AccessionNumber = file.StudyID = file.ReferringPhysicianName = ""
    file.PatientBirthDate = file.PatientSex = file.PositionReferenceIndicator = file.Manufacturer = ""
    file.PatientName, file.PatientID, file.Modality = "PHANTOM", f"P{patient:02d}", "MR"
    file.SeriesDescription, file.SeriesNumber, file.InstanceNumber = "prrmse phantom, cine", 1, index + 1
    file.ScanningSequence, file.SequenceVariant, file.ScanOptions = "GR", "SS", ""
    file.MRAcquisitionType, file.MagneticFieldStrength, file.CardiacNumberOfImages = "2D", 1.5, PHASES
    file.RepetitionTime, file.EchoTime, file.EchoTrainLength, file.FlipAngle = 3.6, 1.8, 1, 55
    pixel, step = spacing
    position = round(frame.position * step, 1)
    file.PixelSpacing, file.SliceThickness, file.SpacingBetweenSlices = [pixel, pixel], 7.0, step
    file.ImageOrientationPatient, file.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, position]
    file.SliceLocation = position
    file.Rows, file.Columns = image.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 0
    file.PixelData = image.tobytes()
    file.save_as(path, enforce_file_format=True)


def _uid(*parts: object) -> UID:
    return generate_uid(prefix=_UID_ROOT, entropy_srcs=["prrmse phantom", *map(str, parts)])
