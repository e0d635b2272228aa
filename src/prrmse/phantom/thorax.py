"""The surroundings of the heart in one slice: chest wall, lung, diaphragm, upper abdomen, spine, great vessels."""

from __future__ import annotations

import numpy as np

from prrmse.phantom.patient import Patient, Thorax
from prrmse.phantom.shapes import ellipse, inside, rotated
from prrmse.phantom.tissue import Canvas


def paint_thorax(
    patient: Patient, level: float, x: np.ndarray, y: np.ndarray, pixel: float, grain: np.ndarray
) -> Canvas:
    """Everything but the heart, painted from the skin inwards.

    Args:
        patient: whose.
        level: depth of the slice, 0 at the base, 1 at the apex.
        x, y: points ``[H, W]``, mm from the image centre.
        pixel: mm.
        grain: noise of SD 1 at the scale of small vessels ``[H, W]``.
    """
    thorax = patient.thorax
    x, y = x - patient.centre[0], y - patient.centre[1]
    u, v = thorax.warp.apply(*rotated(x, y, thorax.turn), level)
    canvas = Canvas.empty((x.shape[0], x.shape[1]))
    cavity = _chest_wall(canvas, thorax, u, v, pixel)
    _lung(canvas, thorax, u, v, pixel, cavity, grain)
    _spine(canvas, thorax, u, v, pixel)
    # However the plane cuts the chest, the heart rests on the diaphragm.
    _abdomen(canvas, thorax, level, *rotated(u, v, -0.6 * thorax.turn), pixel, cavity, grain)
    _aorta(canvas, thorax, u, v, pixel)
    return canvas


def _chest_wall(canvas: Canvas, thorax: Thorax, u: np.ndarray, v: np.ndarray, pixel: float) -> np.ndarray:
    """Skin, fat, muscle and ribs; returns the distance to the inside of the chest."""
    cx, cy, a, b = thorax.body
    outline = ellipse(u, v, cx, cy, a, b)
    angle = np.arctan2(v - cy, u - cx)
    canvas.paint("muscle", inside(outline, pixel))
    canvas.paint("fat", inside(outline + 1.6, pixel))
    depth = outline + thorax.fat * (1 + thorax.fat_profile.at(angle))
    canvas.paint("muscle", inside(depth, 1.3 * pixel))
    # Ribs: dark cortical shells around marrow, a pitch apart, with fat between the muscle layers.
    turns = angle * (0.5 * (a + b)) / thorax.rib_pitch + thorax.rib_phase
    along = (turns - np.rint(turns)) * thorax.rib_pitch
    canvas.paint("fat", 0.8 * inside(np.abs(depth + 4.0) - 0.9 - 0.05 * np.abs(along), 1.5 * pixel))
    size = thorax.rib_profile.at(angle)
    rib = ellipse(along, depth + (0.58 + 0.1 * size) * thorax.wall, 0, 0, 7.2, 4.4) - 2.4 * size
    canvas.paint("cortex", 0.7 * inside(rib, pixel))
    canvas.paint("bone", inside(rib + 1.3, pixel))
    cavity = depth + thorax.wall * (1 + 0.22 * size)
    canvas.paint("fat", inside(cavity + 1.5 - 4 * size, pixel))
    found: np.ndarray = cavity + 1.5 + np.maximum(-4 * size, 0)
    return found


def _lung(
    canvas: Canvas, thorax: Thorax, u: np.ndarray, v: np.ndarray, pixel: float, cavity: np.ndarray, grain: np.ndarray
) -> None:
    """Lungs with their vessels, and the mediastinal fat that ties the heart to the sternum."""
    canvas.paint("lung", inside(cavity, pixel))
    hilum = np.exp(-np.hypot(u - 30, v - 25) / 55)
    canvas.paint("vessel", inside(cavity + 4, pixel) * np.clip(1.6 * (grain - 2.0 + 0.9 * hilum), 0, 0.9))
    mx, my, size = thorax.mediastinum
    pad = np.maximum(ellipse(u, v, mx, my, size, 58, -0.1), cavity)
    canvas.paint("fat", inside(pad, 1.5 * pixel))
    thymus = np.clip(0.14 * (grain + 0.3), 0, 0.24)
    canvas.paint("muscle", thymus * inside(pad + 4, 3 * pixel))


def _abdomen(
    canvas: Canvas,
    thorax: Thorax,
    level: float,
    u: np.ndarray,
    v: np.ndarray,
    pixel: float,
    cavity: np.ndarray,
    grain: np.ndarray,
) -> None:
    """Diaphragm, liver with veins, stomach, spleen in fat; the dome rises towards the apex of the heart."""
    top, summit, bend = thorax.dome
    slope = (u - summit) / bend
    below = (top - 7 * level + 0.5 * bend * slope**2 - v) / np.sqrt(1 + slope**2)
    below = np.maximum(below, cavity)
    canvas.paint("muscle", inside(below, pixel))
    canvas.paint("fat", inside(below + 2.4, pixel))
    fold = np.clip(0.3 * (np.abs(grain) - 0.8), 0, 0.4)
    canvas.paint("muscle", fold * inside(below + 5, 2 * pixel))
    sx, sy, size = thorax.spleen
    canvas.paint("spleen", inside(np.maximum(ellipse(u, v, sx, sy, size, 1.9 * size, -0.3), below + 3.5), 1.2 * pixel))
    gx, gy, a, b, tilt = thorax.stomach
    stomach = np.maximum(ellipse(u, v, gx, gy, a, b, tilt), below + 4.0)
    canvas.paint("muscle", inside(stomach, pixel))
    canvas.paint("stomach", inside(stomach + 3.0 + 0.8 * grain, 1.2 * pixel))
    canvas.paint("air", inside(np.maximum(stomach + 3.5, v - gy - thorax.gas), pixel))
    lx, ly, la, lb = thorax.liver
    liver = np.maximum(ellipse(u, v, lx + 10 * level, ly, la, lb, 0.15), below + 2.8)
    canvas.paint("liver", inside(liver, pixel))
    canvas.paint("vessel", np.clip(1.3 * (np.abs(grain) - 2.0), 0, 0.8) * inside(liver + 5, 2 * pixel))
    cx, cy, radius = thorax.cava
    cava = ellipse(u, v, cx - 4 * level, cy, 1.25 * radius, 0.9 * radius, 0.4)
    canvas.paint("vessel", inside(np.maximum(cava, below + 2.0), 1.2 * pixel))


def _spine(canvas: Canvas, thorax: Thorax, u: np.ndarray, v: np.ndarray, pixel: float) -> None:
    """Vertebral body, spinal canal, back muscles."""
    sx, sy = thorax.spine
    back = np.minimum(ellipse(u, v, sx - 26, sy + 32, 27, 17, 0.2), ellipse(u, v, sx + 26, sy + 32, 27, 17, -0.2))
    canvas.paint("muscle", inside(back, 2 * pixel))
    body = ellipse(u, v, sx, sy, 19, 15.5)
    canvas.paint("cortex", inside(body - 1.6, pixel))
    canvas.paint("bone", inside(body, pixel))
    arch = ellipse(u, v, sx, sy + 22, 11, 9)
    canvas.paint("cortex", 0.7 * inside(arch - 1.5, pixel))
    canvas.paint("vessel", inside(arch, pixel))
    canvas.paint("muscle", inside(arch + 4.5, pixel))


def _aorta(canvas: Canvas, thorax: Thorax, u: np.ndarray, v: np.ndarray, pixel: float) -> None:
    """Descending aorta with its wall, in a little fat."""
    ax, ay, radius = thorax.aorta
    tube = ellipse(u, v, ax, ay, radius, 0.94 * radius)
    canvas.paint("fat", inside(tube - 3.5, 2 * pixel))
    canvas.paint("muscle", inside(tube - 1.0, pixel))
    canvas.paint("aorta", inside(tube, pixel))
