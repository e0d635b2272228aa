"""Phantom cohort in the layout of the T1 mapping set: one MATLAB v7.3 file with images and contours."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

from prrmse.phantom import contrast
from prrmse.phantom.grid import levels, patient_rng, pixel_grid, slice_step_mm
from prrmse.phantom.options import T1Options
from prrmse.phantom.patient import GROUPS, Patient, draw_patient
from prrmse.phantom.thorax import paint_thorax
from prrmse.phantom.ventricles import Surfaces, paint_heart, surfaces

POINTS, PIXEL_MM = 60, 1.2
# STONE is read out in mid-diastole, a little short of ED.
_SYSTOLE = 0.12
_NO_INVERSION_MS = 10000.0
_HEADER = "MATLAB 7.3 MAT-file, Platform: PHANTOM, Created on: Thu Jan  1 00:00:00 2026 HDF5 schema 1.00 ."


def write_t1(root: Path, patients: int, seed: int, options: T1Options) -> None:
    """``T1Dataset.mat``: a struct array ``Dataset`` with one element for each patient.

    ``Img`` holds whole numbers; contours have 60 points, x = column, y = row, pixel centres whole numbers from 0;
    ``TriggerTime`` is the inversion time in ms, ascending, the last image (no inversion) marked 10000. HDF5 shows
    MATLAB's axes reversed: Img (slice, time, column, row), contours (slice, time, xy, point).
    """
    path = root / "T1Dataset.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        elements = file.create_group("#refs#")
        struct = file.create_group("Dataset")
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        fields: dict[str, list[h5py.Reference]] = {}
        for number in range(1, patients + 1):
            for name, value in _patient(patient_rng(seed, "t1", number), options).items():
                element = _store(elements, f"{name}{number:04d}", value)
                fields.setdefault(name, []).append(element.ref)
        for name, references in fields.items():
            data = np.array([references], dtype=h5py.ref_dtype)
            struct.create_dataset(name, data=data, dtype=h5py.ref_dtype, track_times=False)
    # Version 2.0, little-endian: what tells MATLAB that HDF5 follows.
    header = _HEADER.ljust(116).encode() + b"\0" * 8 + b"\x00\x02IM"
    with path.open("rb+") as raw:
        raw.write(header)


def _store(group: h5py.Group, name: str, value: np.ndarray) -> h5py.Dataset:
    packed = {}
    if value.dtype == np.float32:
        packed = {"chunks": (1, 1, *value.shape[2:]), "compression": "gzip", "compression_opts": 3}
    element = group.create_dataset(name, data=value, track_times=False, **packed)
    element.attrs["H5PATH"] = np.bytes_("/Dataset")
    element.attrs["MATLAB_class"] = np.bytes_("single" if value.dtype == np.float32 else "double")
    return element


def _patient(rng: np.random.Generator, options: T1Options) -> dict[str, np.ndarray]:
    """The fields of one element, axes as HDF5 shows them."""
    patient = draw_patient(rng, GROUPS[int(rng.choice([0, 1, 2, 3, 3, 4]))])
    stone = contrast.Stone.draw(rng)
    x, y = pixel_grid(*options.matrix, PIXEL_MM)
    bias = contrast.coil_bias(patient, x, y, rng, strength=0.5)
    gain, noise = rng.uniform(400, 900), contrast.M0["myocardium"] / (options.snr * rng.uniform(0.7, 1.35))
    times = len(stone.times)
    images = np.empty((options.slices, times, options.matrix[1], options.matrix[0]), np.float32)
    epi, endo = (np.empty((options.slices, times, 2, POINTS)) for _ in range(2))
    for z, level in enumerate(levels(options.slices)):
        at = surfaces(patient, float(level), _SYSTOLE, x, y)
        signals = _signals(patient, stone, float(level), at, x, y, rng)
        moves = _Motion.draw(rng, times, options.motion_mm)
        moved = np.stack([moves.image(t, s, at) for t, s in enumerate(signals)])
        # Acquired at 2.1 mm and interpolated: the point spread is wider than the pixel.
        stored = np.rint(contrast.acquire(moved * bias, noise, 0.75, rng) * gain)
        images[z] = stored.transpose(0, 2, 1)
        for surface, store in ((at.lv_epi, epi), (at.lv_endo, endo)):
            contour = _closed_contour(surface)
            store[z] = [np.round(moves.points(t, contour, at), 4).T for t in range(times)]
    step = slice_step_mm(patient.heart.length, options.slices)
    stored_times = np.where(np.isinf(stone.times), _NO_INVERSION_MS, stone.times)
    return {
        "EndoContours": endo,
        "EpiContours": epi,
        "Img": images,
        "SliceLocation": step * np.arange(options.slices, dtype=np.float64)[:, None],
        "TriggerTime": np.tile(stored_times, (options.slices, 1)),
    }


def _signals(
    patient: Patient,
    stone: contrast.Stone,
    level: float,
    at: Surfaces,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Signed, noise-free, unmoved images of one slice, ``[11, H, W]``."""
    shape = (x.shape[0], x.shape[1])
    grain = contrast.texture(shape, 2.3 / PIXEL_MM, rng)
    canvas = paint_thorax(patient, level, x, y, PIXEL_MM, grain)
    paint_heart(canvas, patient.heart, at, level, PIXEL_MM, grain)
    unrest = 1 + 0.04 * contrast.texture(shape, 1.6, rng) + 0.06 * contrast.texture(shape, 4.0, rng)
    return stone.signals(canvas.shares) * unrest


class _Motion:
    """What breathing leaves in-plane: a shift and a scale of the heart for each image, fading away from it."""

    def __init__(self, shift: np.ndarray, scale: np.ndarray) -> None:
        self.shift, self.scale = shift, scale

    @classmethod
    def draw(cls, rng: np.random.Generator, images: int, motion_mm: float) -> _Motion:
        """Shift in pixels ``[images, 2]`` (x, y), at most 3 SD, and scale ``[images]``."""
        shift = np.clip(rng.normal(0, 1, (images, 2)), -3, 3) * motion_mm / PIXEL_MM
        return cls(shift, 1 + rng.normal(0, 0.0065, images) * motion_mm)

    def image(self, t: int, image: np.ndarray, at: Surfaces) -> np.ndarray:
        """Image t, moved: fully in and near the heart, so that its contours move with it."""
        far = np.minimum(at.lv_epi, at.rv_epi)
        weight = 0.2 + 0.8 * np.clip(1.6 - far / 30, 0, 1)
        rows, columns = np.indices(image.shape, dtype=np.float64)
        cx, cy = _centre(at)
        back_x = cx + (columns - cx - self.shift[t, 0]) / self.scale[t]
        back_y = cy + (rows - cy - self.shift[t, 1]) / self.scale[t]
        source = [rows + weight * (back_y - rows), columns + weight * (back_x - columns)]
        return np.asarray(ndimage.map_coordinates(image, source, order=1, mode="nearest"))

    def points(self, t: int, points: np.ndarray, at: Surfaces) -> np.ndarray:
        """Points ``[n, 2]`` (column, row) of the unmoved image, moved as image t."""
        centre = np.array(_centre(at))
        found: np.ndarray = centre + self.shift[t] + (points - centre) * self.scale[t]
        return found


def _centre(at: Surfaces) -> tuple[float, float]:
    """Pixel (column, row) nearest to the LV's axis."""
    row, column = np.unravel_index(int(np.argmin(at.radius)), at.radius.shape)
    return float(column), float(row)


def _closed_contour(distance: np.ndarray) -> np.ndarray:
    """`POINTS` points (column, row), equally spaced along the zero line of a distance, ``[POINTS, 2]``."""
    line = max(find_contours(distance, 0.0), key=len)[:, ::-1]
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.linspace(0, along[-1], POINTS, endpoint=False)
    return np.stack([np.interp(at, along, line[:, k]) for k in range(2)], 1)
