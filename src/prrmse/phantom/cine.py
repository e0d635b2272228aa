"""One cine stack of a patient: what the ACDC and RVSC writers share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prrmse.phantom import contrast
from prrmse.phantom.grid import levels, pixel_grid
from prrmse.phantom.patient import Patient
from prrmse.phantom.thorax import paint_thorax
from prrmse.phantom.ventricles import Surfaces, paint_heart, surfaces


@dataclass(frozen=True)
class CineFrame:
    """One image ``[H, W]`` (LV blood about 1) and the surfaces that its labels come from."""

    position: int
    phase: str
    image: np.ndarray
    surfaces: Surfaces


def cine_frames(
    patient: Patient,
    matrix: tuple[int, int],
    slices: int,
    pixel: float,
    noise: float,
    myocardium_to_blood: float,
    rng: np.random.Generator,
) -> Iterator[CineFrame]:
    """ED and ES of every slice, base first.

    Args:
        patient: whose.
        matrix: rows, columns.
        slices: from base to apex.
        pixel: mm.
        noise: SD as a share of LV blood.
        myocardium_to_blood: mean signal ratio of the cohort.
        rng: the patient's.
    """
    x, y = pixel_grid(*matrix, pixel)
    values = contrast.draw_cine_values(rng, myocardium_to_blood)
    bias, noise = contrast.coil_bias(patient, x, y, rng), noise * rng.uniform(0.7, 1.3)
    blur = rng.uniform(0.42, 0.58)
    for position, level in enumerate(levels(slices)):
        grain = contrast.texture(matrix, 2.3 / pixel, rng)
        behind = paint_thorax(patient, float(level), x, y, pixel, grain)
        # ED and ES come from one breath-hold; the next slice from another.
        shift = (float(rng.normal(0, 1.0)), float(rng.normal(0, 1.0)))
        for phase, systole in (("ED", 0.0), ("ES", 1.0)):
            at = surfaces(patient, float(level), systole, x, y, shift)
            canvas = behind.copy()
            paint_heart(canvas, patient.heart, at, float(level), pixel, grain)
            image = contrast.cine(canvas.shares, values, rng) * bias
            yield CineFrame(position, phase, contrast.acquire(image, noise, blur, rng), at)
