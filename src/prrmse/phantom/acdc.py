"""Phantom cohort in the layout of ACDC: NIfTI, ED and ES, labels RV 1, myocardium 2, LV 3."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from prrmse.phantom.cine import cine_frames
from prrmse.phantom.grid import patient_rng, slice_step_mm
from prrmse.phantom.options import AcdcOptions
from prrmse.phantom.patient import GROUPS, draw_patient
from prrmse.phantom.ventricles import Surfaces


def write_acdc(root: Path, patients: int, seed: int, options: AcdcOptions) -> None:
    """``training/patientNNN`` with Info.cfg, int16 image and uint8 label of ED and ES.

    The groups take turns, so that any cohort is balanced (in the release they come in blocks of 20). With fewer
    slices than the release the distance between them grows, so that volumes stay right.
    """
    for number in range(1, patients + 1):
        rng = patient_rng(seed, "acdc", number)
        group = GROUPS[(number - 1) % len(GROUPS)]
        folder = root / "training" / f"patient{number:03d}"
        folder.mkdir(parents=True)
        _write_patient(folder, group, rng, options)


def _write_patient(folder: Path, group: str, rng: np.random.Generator, options: AcdcOptions) -> None:
    patient = draw_patient(rng, group)
    pixel, gain = float(np.round(rng.uniform(1.45, 1.75), 4)), rng.uniform(120, 420)
    frames = {"ED": 1, "ES": int(rng.integers(8, 14))}
    spacing = (pixel, pixel, slice_step_mm(patient.heart.length, options.slices))
    images: dict[str, list[np.ndarray]] = {"ED": [], "ES": []}
    labels: dict[str, list[np.ndarray]] = {"ED": [], "ES": []}
    stack = cine_frames(patient, options.matrix, options.slices, pixel, options.noise, options.myocardium_to_blood, rng)
    for frame in stack:
        images[frame.phase].append(np.rint(frame.image * gain).astype(np.int16))
        labels[frame.phase].append(_label(frame.surfaces))
    for phase, number in frames.items():
        stem = f"{folder.name}_frame{number:02d}"
        _save_nifti(np.stack(images[phase]), spacing, folder / f"{stem}.nii.gz")
        _save_nifti(np.stack(labels[phase]), spacing, folder / f"{stem}_gt.nii.gz")
    height = rng.normal(171, 9)
    weight = (24.5 + 0.22 * (patient.thorax.fat - 15) * 2 + rng.normal(0, 1.5)) * (height / 100) ** 2
    (folder / "Info.cfg").write_text(
        f"ED: {frames['ED']}\nES: {frames['ES']}\nGroup: {group}\n"
        f"Height: {height:.1f}\nNbFrame: 30\nWeight: {weight:.1f}\n",
        newline="\n",
    )


def _label(at: Surfaces) -> np.ndarray:
    """uint8 ``[H, W]``."""
    label = np.zeros(at.lv_epi.shape, np.uint8)
    label[at.rv_endo < 0] = 1
    label[at.lv_epi < 0] = 2
    label[at.lv_endo < 0] = 3
    return label


def _save_nifti(volume: np.ndarray, spacing: tuple[float, float, float], path: Path) -> None:
    """Write ``[Z, H, W]`` as (X, Y, Z) with the release's affine; equal data give equal bytes."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    file = nib.Nifti1Image(volume.T, affine)
    file.header.set_xyzt_units("mm")
    file.set_qform(affine, code=1)
    file.set_sform(None, code=0)
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=4, fileobj=raw, mtime=0) as packed:
        packed.write(file.to_bytes())
