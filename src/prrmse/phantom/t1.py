"""Phantom cohort in the layout of the T1 mapping set: one MATLAB v7.3 file with images and contours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from prrmse.phantom import anatomy, contrast
from prrmse.phantom.grid import levels, patient_rng, pixel_grid, to_pixels

SIZE, SLICES, POINTS, PIXEL_MM = 140, 5, 60, 1.2
NO_INVERSION_MS = 10000.0
HEADER = "MATLAB 7.3 MAT-file, Platform: PHANTOM, Created on: Thu Jan  1 00:00:00 2026 HDF5 schema 1.00 ."


def write(root: Path, patients: int, seed: int) -> None:
    """``T1Dataset.mat``: a struct array ``Dataset`` with one element for each patient."""
    path = root / "T1Dataset.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        elements = file.create_group("#refs#")
        fields: dict[str, list[h5py.Reference]] = {}
        for number in range(1, patients + 1):
            for name, value in _patient(seed, number).items():
                element = elements.create_dataset(f"{name}{number:04d}", data=value, track_times=False)
                element.attrs["MATLAB_class"] = np.bytes_("single" if value.dtype == np.float32 else "double")
                fields.setdefault(name, []).append(element.ref)
        struct = file.create_group("Dataset")
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        for name, references in fields.items():
            data = np.array([references], dtype=h5py.ref_dtype)
            struct.create_dataset(name, data=data, dtype=h5py.ref_dtype, track_times=False)
    header = HEADER.ljust(116).encode() + b"\0" * 8 + b"\x00\x02IM"
    with path.open("rb+") as raw:
        raw.write(header)


def _patient(seed: int, number: int) -> dict[str, np.ndarray]:
    """The fields of one element, axes as HDF5 shows them (MATLAB's, reversed)."""
    rng = patient_rng(seed, "t1", number)
    patient = anatomy.draw_patient(rng, anatomy.GROUPS[int(rng.choice([0, 1, 2, 3, 3, 4]))])
    t1 = {tissue: value * rng.normal(1, 0.04) for tissue, value in contrast.T1_MS.items()}
    t1["myocardium"] = float(np.clip(rng.normal(1090, 60), 950, 1300))
    times, efficiency = contrast.stone_times(rng), rng.uniform(0.95, 1.0)
    x, y = pixel_grid(SIZE, SIZE, PIXEL_MM)
    bias, gain, noise = contrast.coil_bias(x, y, rng), rng.uniform(400, 900), 0.62 / rng.uniform(15, 30)
    image = np.empty((SLICES, len(times), SIZE, SIZE), np.float32)
    epi, endo = (np.empty((SLICES, len(times), 2, POINTS)) for _ in range(2))
    for z, level in enumerate(levels(SLICES)):
        behind = anatomy.surroundings(patient, float(level), x, y, PIXEL_MM)
        for t, inversion in enumerate(times):
            # Free breathing: what is left of the motion shifts the heart from image to image.
            shift, scale = tuple(rng.normal(0, 1.8, 2)), rng.normal(1, 0.012)
            heart = anatomy.heart(patient, float(level), 0.15, x, y, shift, scale)
            shares = anatomy.tissues(patient, float(level), heart, x, y, PIXEL_MM, behind)
            signal = contrast.inversion_recovery(shares, t1, inversion, efficiency)
            grain = 1 + 0.04 * contrast.texture(x.shape, 1.5, rng)
            # Acquired at 2.1 mm and interpolated: a wider point spread than the pixel.
            acquired = contrast.acquire(np.abs(signal) * grain * bias, noise, 0.8, rng)
            image[z, t] = np.rint(acquired * gain).T
            rings = anatomy.lv_rings(patient, float(level), 0.15, shift)
            for ring, store in zip(rings, (endo, epi), strict=True):
                origin = np.add(patient.centre, shift)
                points = origin + (ring.points(POINTS) - origin) * scale
                store[z, t] = to_pixels(points, (SIZE, SIZE), PIXEL_MM).T
    stored = np.where(np.isinf(times), NO_INVERSION_MS, times)
    return {
        "EndoContours": endo,
        "EpiContours": epi,
        "Img": image,
        "SliceLocation": 16.0 * np.arange(SLICES, dtype=np.float64)[:, None],
        "TriggerTime": np.tile(stored, (SLICES, 1)),
    }
