"""Phantom cohort in the layout of ACDC: NIfTI, ED and ES, labels RV 1, myocardium 2, LV 3."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from prrmse.phantom import anatomy, contrast
from prrmse.phantom.grid import levels, patient_rng, pixel_grid

ROWS, COLUMNS, SLICES, THICKNESS_MM = 136, 128, 6, 10.0


def write(root: Path, patients: int, seed: int) -> None:
    """``training/patientNNN`` with Info.cfg, and image and label of ED and ES."""
    for number in range(1, patients + 1):
        rng = patient_rng(seed, "acdc", number)
        group = anatomy.GROUPS[(number - 1) % len(anatomy.GROUPS)]
        patient, values = anatomy.draw_patient(rng, group), contrast.draw_cine_values(rng)
        pixel, gain = float(np.round(rng.uniform(1.4, 1.75), 4)), rng.uniform(180, 700)
        frames = {"ED": 1, "ES": int(rng.integers(8, 14))}
        folder = root / "training" / f"patient{number:03d}"
        folder.mkdir(parents=True)
        bias_seed = int(rng.integers(2**31))
        for phase, frame in frames.items():
            image, label = _volume(patient, values, pixel, float(phase == "ES"), bias_seed, rng)
            name = folder / f"patient{number:03d}_frame{frame:02d}"
            _save_nifti(np.rint(image * gain).astype(np.int16), pixel, name.with_name(name.name + ".nii.gz"))
            _save_nifti(label, pixel, name.with_name(name.name + "_gt.nii.gz"))
        height, weight = rng.normal(171, 9), rng.normal(76, 13)
        (folder / "Info.cfg").write_text(
            f"ED: {frames['ED']}\nES: {frames['ES']}\nGroup: {group}\n"
            f"Height: {height:.1f}\nNbFrame: 30\nWeight: {weight:.1f}\n"
        )


def _volume(
    patient: anatomy.Patient,
    values: dict[str, float],
    pixel: float,
    systole: float,
    bias_seed: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Image (LV blood near 1) and uint8 labels ``[Z, H, W]``."""
    x, y = pixel_grid(ROWS, COLUMNS, pixel)
    bias = contrast.coil_bias(x, y, np.random.default_rng(bias_seed))
    images, labels = [], []
    for level in levels(SLICES):
        heart = anatomy.heart(patient, float(level), systole, x, y, shift=tuple(rng.normal(0, 0.8, 2)))
        shares = anatomy.tissues(patient, float(level), heart, x, y, pixel)
        image = contrast.cine(shares, values, rng) * bias
        images.append(contrast.acquire(image, noise=rng.uniform(0.02, 0.035), blur=0.55, rng=rng))
        label = np.zeros(x.shape, np.uint8)
        label[heart.rv_endo < 0] = 1
        label[heart.lv_epi < 0] = 2
        label[heart.lv_endo < 0] = 3
        labels.append(label)
    return np.stack(images), np.stack(labels)


def _save_nifti(volume: np.ndarray, pixel: float, path: Path) -> None:
    """Write ``[Z, H, W]`` as (X, Y, Z), as the release does; equal data give equal bytes."""
    file = nib.Nifti1Image(volume.T, np.diag([-pixel, -pixel, THICKNESS_MM, 1.0]))
    file.header.set_zooms((pixel, pixel, THICKNESS_MM))
    file.header.set_xyzt_units("mm")
    with path.open("wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
        packed.write(file.to_bytes())
