"""Surfaces of the ventricles in one slice, and the heart painted from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prrmse.phantom.patient import Heart, Patient
from prrmse.phantom.shapes import ellipse, inside
from prrmse.phantom.tissue import Canvas


@dataclass(frozen=True)
class Surfaces:
    """Distances (mm, negative inside) to the heart's surfaces ``[H, W]``, and polar coordinates about the LV.

    By ACDC's convention the papillary muscles and trabeculae belong to the cavities.
    """

    lv_endo: np.ndarray
    lv_epi: np.ndarray
    rv_endo: np.ndarray
    rv_epi: np.ndarray
    radius: np.ndarray
    angle: np.ndarray
    x: np.ndarray
    y: np.ndarray
    cavity_radius: float


def surfaces(
    patient: Patient, level: float, systole: float, x: np.ndarray, y: np.ndarray, shift: tuple[float, float] = (0, 0)
) -> Surfaces:
    """The heart's surfaces on a grid.

    Args:
        patient: whose.
        level: depth of the slice at ED, 0 at the base, 1 at the apex.
        systole: 0 at ED, 1 at ES.
        x, y: points ``[H, W]``, mm from the image centre.
        shift: of the heart in this slice (breath-holds differ), mm.
    """
    heart = patient.heart
    # The base descends in systole, so a fixed plane cuts the heart nearer to the base.
    level = max(0.0, level - 0.07 * systole * min(1.0, heart.shortening / 0.3))
    x, y = heart.warp.apply(x - patient.centre[0] - shift[0], y - patient.centre[1] - shift[1], level)
    endo_mm, epi_mm = _lv_radii(heart, level, systole)
    cx, cy = 14 + heart.lean[0] * level, 2 + heart.lean[1] * level
    radius, angle = np.hypot(x - cx, y - cy), np.arctan2(y - cy, x - cx)
    epi = epi_mm * (1 + heart.outline.at(angle))
    wall = (epi_mm - endo_mm) * (1 + heart.thickness.at(angle))
    wall = wall + _remodelling(patient, angle) * (epi_mm - endo_mm)
    lv_endo = radius - np.maximum(epi - wall + endo_mm * heart.endo_outline.at(angle), 1.5)
    lv_epi = radius - epi
    rv_endo, rv_epi = _right_ventricle(heart, level, systole, x - cx, y - cy, epi_mm, lv_epi)
    return Surfaces(lv_endo, lv_epi, rv_endo, rv_epi, radius, angle, x - cx, y - cy, endo_mm)


def _lv_radii(heart: Heart, level: float, systole: float) -> tuple[float, float]:
    """Mean endocardial and epicardial radius, mm."""
    taper = float(np.sqrt(max(0.05, 1 - (0.95 * level) ** 2.3)))
    endo_ed = heart.lv_radius * taper
    endo = endo_ed * (1 - heart.shortening * systole * (0.85 + 0.35 * level))
    wall_ed = heart.wall * (1.05 - 0.25 * level)
    # Muscle is incompressible and the ventricle shortens, so the area of the ring grows a little.
    ring = ((endo_ed + wall_ed) ** 2 - endo_ed**2) * (1 + 0.10 * systole)
    return endo, float(np.sqrt(endo**2 + ring))


def _remodelling(patient: Patient, angle: np.ndarray) -> np.ndarray:
    """Change of wall thickness by angle, as a share: the scar of an infarct, septal hypertrophy."""
    if patient.group == "MINF":
        return -0.42 * np.exp(3.0 * (np.cos(angle - patient.heart.scar) - 1))
    if patient.group == "HCM":
        return 0.28 * np.exp(1.5 * (np.cos(angle - patient.heart.rv_direction) - 1)) - 0.06
    return np.zeros_like(angle)


def _right_ventricle(
    heart: Heart, level: float, systole: float, x: np.ndarray, y: np.ndarray, epi_mm: float, lv_epi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Inner and outer surface: a tilted oval beside the LV, less the LV; x, y from the LV centre."""
    size = heart.rv_size * (1 - 0.68 * level**1.9)
    # The free wall moves towards the septum, far more than the crescent shortens along it.
    squeeze = systole * heart.rv_squeeze
    wide, long = 34.0 * size * (1 - 0.36 * squeeze), 42.0 * size * (1 - 0.19 * squeeze)
    reach = 0.86 * epi_mm - 2.0 * squeeze
    u, v = x - reach * np.cos(heart.rv_direction), y - reach * np.sin(heart.rv_direction)
    ripple = heart.rv_outline.at(np.arctan2(v, u)) * min(wide, long)
    outline = ellipse(u, v, 0, 0, wide, long, heart.rv_tilt) - ripple
    return np.maximum(outline, 0.4 - lv_epi), np.maximum(outline - 3.6, -2.6 - lv_epi)


def paint_heart(canvas: Canvas, heart: Heart, at: Surfaces, level: float, pixel: float, grain: np.ndarray) -> None:
    """Epicardial fat, both walls, blood, papillary muscles and trabeculae, over the surroundings.

    Args:
        canvas: of the surroundings.
        heart, at, level: whose, its surfaces, the depth of the slice.
        pixel: mm.
        grain: noise of SD 1 at the scale of trabeculae ``[H, W]``.
    """
    # A thick slice cuts the tapering apex obliquely: edges widen.
    soft = pixel * (1.1 + 1.6 * level**2)
    rv_side = np.cos(at.angle - heart.rv_direction)
    pad = heart.fat * (0.45 + 0.65 * rv_side + 0.65 * heart.fat_pad.at(at.angle))
    canvas.paint("fat", inside(np.minimum(at.rv_epi, at.lv_epi) - np.maximum(pad, -2.0), 1.2 * pixel))
    canvas.paint("myocardium", inside(np.maximum(at.rv_epi, -at.lv_epi - 2.0), soft))
    canvas.paint("rv_blood", inside(at.rv_endo, soft))
    net = inside(0.9 * (1.5 - grain) - 0.10 * np.clip(at.rv_endo + 8, 0, 8), 1.2)
    canvas.paint("myocardium", 0.6 * net * inside(at.rv_endo, soft))
    canvas.paint("myocardium", inside(at.lv_epi, soft))
    cavity = inside(at.lv_endo, soft)
    canvas.paint("lv_blood", cavity)
    for muscle in _papillary(heart, at, level, grain):
        canvas.paint("myocardium", 0.92 * inside(muscle, soft) * cavity)


def _papillary(heart: Heart, at: Surfaces, level: float, grain: np.ndarray) -> list[np.ndarray]:
    """Distances to the trabeculated layer and, away from the base, to the two papillary muscles."""
    depth = 0.06 + 0.10 * level
    layer = at.cavity_radius * depth * (0.1 + 0.85 * heart.trabeculae.at(at.angle)) + 1.1 * grain
    found = [-(at.lv_endo + layer)]
    grown = float(np.clip((level - 0.12) / 0.25, 0, 1))
    for angle, place, across, along in heart.papillary if grown > 0 else ():
        # They keep their size while the cavity shrinks, and so fill it at ES.
        r = at.cavity_radius * (place + 0.12 * level)
        a = angle + heart.turn
        u, v = at.x - r * np.cos(a), at.y - r * np.sin(a)
        size = grown * 0.6 * heart.lv_radius * (1 - 0.45 * level)
        found.append(ellipse(u, v, 0, 0, along * size, across * size * 1.3, a) - 0.5 * grain)
    return found
