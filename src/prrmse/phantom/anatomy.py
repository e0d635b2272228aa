"""Procedural short-axis anatomy: who the patient is, where each tissue lies in a slice.

Lengths are mm, x to the right and y down from the image centre, in the usual display (chest wall on
top, RV to the left). Sizes follow what was measured on the ACDC training set (mean +- SD at ED:
LV cavity diameter 52 +- 10, wall 8 +- 2, RV area 1680 +- 855 mm2 in the middle slice).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")

# Group -> LV cavity radius, wall, RV size, ejection (share of the radius lost from ED to ES).
_SHAPE = {
    "NOR": (24.5, 7.5, 1.00, 0.32),
    "DCM": (32.0, 6.5, 1.05, 0.12),
    "HCM": (21.5, 12.5, 0.90, 0.40),
    "MINF": (28.5, 7.5, 1.00, 0.18),
    "RV": (23.5, 7.5, 1.45, 0.28),
}


@dataclass
class Patient:
    """The draws that make one patient."""

    group: str
    lv_radius: float
    wall: float
    rv_size: float
    ejection: float
    centre: tuple[float, float]
    rotation: float
    ripple: np.ndarray
    scar: float
    fat: float
    body: tuple[float, float]
    liver: tuple[float, float, float]
    aorta: tuple[float, float, float]
    vessels: np.ndarray
    texture_seed: int


def draw_patient(rng: np.random.Generator, group: str) -> Patient:
    """One patient of a diagnostic group."""
    radius, wall, rv, ejection = _SHAPE[group]
    size = rng.normal(1.0, 0.07)
    return Patient(
        group=group,
        lv_radius=radius * size * rng.normal(1.0, 0.06),
        wall=max(5.0, wall * rng.normal(1.0, 0.10)),
        rv_size=rv * size * rng.normal(1.0, 0.08),
        ejection=float(np.clip(rng.normal(ejection, 0.04), 0.06, 0.48)),
        centre=(rng.normal(4, 6), rng.normal(0, 6)),
        rotation=rng.normal(0, 0.18),
        ripple=rng.normal(0, 1, (4, 2)) * np.array([[0.022], [0.014], [0.008], [0.005]]),
        scar=rng.uniform(0, 2 * np.pi),
        fat=rng.uniform(9, 24),
        body=(rng.normal(158, 9), rng.normal(112, 7)),
        liver=(rng.normal(-52, 8), rng.normal(66, 7), rng.normal(1, 0.1)),
        aorta=(rng.normal(26, 6), rng.normal(62, 4), rng.normal(11.5, 1.2)),
        vessels=rng.uniform(-1, 1, (28, 3)),
        texture_seed=int(rng.integers(2**31)),
    )


@dataclass
class Heart:
    """Signed distances (mm, negative inside) of the heart's surfaces in one slice, ``[H, W]``."""

    lv_endo: np.ndarray
    lv_epi: np.ndarray
    rv_endo: np.ndarray
    rv_epi: np.ndarray


@dataclass
class Ring:
    """A closed curve around the LV: centre and radius by angle."""

    centre: tuple[float, float]
    radius: float
    ripple: np.ndarray

    def at(self, angle: np.ndarray) -> np.ndarray:
        """Radius in mm at these angles."""
        waves = sum(a * np.cos((k + 2) * angle) + b * np.sin((k + 2) * angle) for k, (a, b) in enumerate(self.ripple))
        return self.radius * (1 + np.asarray(waves))

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Signed distance (radial) of points to the curve."""
        dx, dy = x - self.centre[0], y - self.centre[1]
        return np.hypot(dx, dy) - self.at(np.arctan2(dy, dx))

    def points(self, n: int) -> np.ndarray:
        """``[n, 2]`` points (x, y) in mm along the curve."""
        angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
        radius = self.at(angle)
        return np.stack([self.centre[0] + radius * np.cos(angle), self.centre[1] + radius * np.sin(angle)], 1)


def lv_rings(patient: Patient, level: float, systole: float, shift: tuple[float, float] = (0, 0)) -> tuple[Ring, Ring]:
    """Endocardial and epicardial curve of the LV.

    Args:
        patient: whose.
        level: 0 at the base, 1 at the apex.
        systole: 0 at ED, 1 at ES.
        shift: of the heart, mm.
    """
    taper = np.sqrt(max(0.05, 1 - (0.93 * level) ** 2.2))
    endo_ed = patient.lv_radius * taper
    endo = endo_ed * (1 - patient.ejection * systole * (0.85 + 0.3 * level))
    wall_ed = patient.wall * (1.05 - 0.25 * level)
    epi_ed = endo_ed + wall_ed
    # The wall keeps most of its area when the cavity shrinks, so it thickens.
    epi = float(np.sqrt(max(epi_ed**2 - 0.85 * (endo_ed**2 - endo**2), (endo + 4) ** 2)))
    centre = (patient.centre[0] + shift[0] + 5 * level, patient.centre[1] + shift[1] + 3 * level)
    return Ring(centre, endo, patient.ripple * 1.3), Ring(centre, epi, patient.ripple)


def heart(
    patient: Patient,
    level: float,
    systole: float,
    x: np.ndarray,
    y: np.ndarray,
    shift: tuple[float, float] = (0, 0),
    scale: float = 1.0,
) -> Heart:
    """The heart's surfaces on a grid of points ``x, y [H, W]`` in mm."""
    cx, cy = patient.centre[0] + shift[0], patient.centre[1] + shift[1]
    x, y = cx + (x - cx) / scale, cy + (y - cy) / scale
    endo, epi = lv_rings(patient, level, systole, shift)
    lv_endo, lv_epi = endo.distance(x, y), epi.distance(x, y)
    if patient.group == "MINF":
        # Old infarct: one segment is thin.
        angle = np.arctan2(y - epi.centre[1], x - epi.centre[0]) - patient.scar
        lv_endo = lv_endo - 0.35 * patient.wall * np.exp(2.5 * (np.cos(angle) - 1))
    rv_endo, rv_epi = _right_ventricle(patient, level, systole, epi, lv_epi, x, y)
    return Heart(lv_endo * scale, lv_epi * scale, rv_endo * scale, rv_epi * scale)


def _right_ventricle(
    patient: Patient, level: float, systole: float, epi: Ring, lv_epi: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A crescent: an ellipse to the left of the LV, less the LV and its septum."""
    size = patient.rv_size * (1 - 0.72 * level**1.6) * (1 - 0.17 * systole)
    half_width, half_height = 31.0 * size, 38.0 * size
    angle = np.pi + patient.rotation + 0.12
    reach = epi.radius * 0.78
    u, v = x - epi.centre[0] - reach * np.cos(angle), y - epi.centre[1] - reach * np.sin(angle)
    tilt = patient.rotation - 0.35
    p, q = u * np.cos(tilt) + v * np.sin(tilt), -u * np.sin(tilt) + v * np.cos(tilt)
    norm = np.hypot(p / half_width, q / half_height) + 1e-9
    outline = (norm - 1) * np.hypot(p, q) / norm
    wall = 3.4
    return np.maximum(outline, 1.2 - lv_epi), np.maximum(outline - wall, -1.0 - lv_epi)


def inside(distance: np.ndarray, pixel: float) -> np.ndarray:
    """Share of a pixel (mm) that lies inside a surface: 1 within, 0 without, partial at the edge."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, a: float, b: float, tilt: float = 0.0) -> np.ndarray:
    """Signed distance (to first order, mm) of an ellipse with half axes a, b."""
    u, v = x - cx, y - cy
    p, q = u * np.cos(tilt) + v * np.sin(tilt), -u * np.sin(tilt) + v * np.cos(tilt)
    norm = np.hypot(p / a, q / b) + 1e-9
    return (norm - 1) * np.hypot(p, q) / norm


TISSUES = (
    "air",
    "fat",
    "muscle",
    "lung",
    "liver",
    "bone",
    "aorta",
    "vessel",
    "myocardium",
    "rv_blood",
    "lv_blood",
)


def _painter(shares: np.ndarray) -> Callable[[str, np.ndarray], None]:
    """Paints a tissue over what is there."""

    def paint(name: str, share: np.ndarray) -> None:
        np.multiply(shares, 1 - share, out=shares)
        shares[TISSUES.index(name)] += share

    return paint


def surroundings(patient: Patient, level: float, x: np.ndarray, y: np.ndarray, pixel: float) -> np.ndarray:
    """Share of each tissue in each pixel, ``[len(TISSUES), H, W]``, summing to 1, without the heart.

    Painted from the outside in: air, subcutaneous fat, chest wall, lungs, liver, spine, aorta.
    """
    shares = np.zeros((len(TISSUES), *x.shape))
    shares[0] = 1.0
    paint = _painter(shares)
    a, b = patient.body
    outline = ellipse(x, y, -32, 26, a, b)
    chest = outline + patient.fat
    paint("fat", inside(outline, pixel))
    paint("muscle", inside(chest, pixel))
    # Ribs and the fat between them break up the chest wall.
    ribs = np.cos(np.arctan2(y - 26, x + 32) * 7 + patient.texture_seed)
    paint("fat", 0.8 * inside(np.abs(chest + 5 + 3 * ribs) - 1.8, 1.5 * pixel) * inside(0.1 - ribs, 1.2))
    cavity = outline + patient.fat + 13
    paint("lung", inside(cavity, pixel))
    bronchi = [np.hypot(x - 60 * vx - 35, y - 70 * vy + 10) - 1.3 - 0.9 * vr for vx, vy, vr in patient.vessels]
    paint("vessel", inside(np.minimum.reduce(bronchi), pixel))
    _mediastinum(patient, level, x, y, pixel, cavity, paint)
    return shares


def tissues(
    patient: Patient,
    level: float,
    body: Heart,
    x: np.ndarray,
    y: np.ndarray,
    pixel: float,
    behind: np.ndarray | None = None,
) -> np.ndarray:
    """`surroundings` with the heart painted in: epicardial fat, RV wall, LV wall, blood, papillary muscles.

    Args:
        behind: the surroundings of this slice, if already known.
    """
    shares = surroundings(patient, level, x, y, pixel) if behind is None else behind.copy()
    paint = _painter(shares)
    # Epicardial fat is patchy: thick in the grooves and over the RV, absent over the lateral wall.
    angle = np.arctan2(y - patient.centre[1], x - patient.centre[0])
    pad = 0.28 * patient.fat * (0.4 + 0.9 * np.cos(angle + 2.2) + 0.5 * np.cos(3 * angle + patient.texture_seed))
    paint("fat", inside(np.minimum(body.rv_epi, body.lv_epi) - pad, pixel))
    paint("myocardium", inside(body.rv_epi, pixel))
    paint("rv_blood", inside(body.rv_endo, pixel))
    paint("myocardium", inside(body.lv_epi, pixel))
    paint("lv_blood", inside(body.lv_endo, pixel))
    for muscle in _papillary(patient, level, body, x, y):
        paint("myocardium", inside(muscle, pixel) * inside(body.lv_endo, pixel))
    return shares


def _mediastinum(
    patient: Patient,
    level: float,
    x: np.ndarray,
    y: np.ndarray,
    pixel: float,
    cavity: np.ndarray,
    paint: Callable[[str, np.ndarray], None],
) -> None:
    """Liver under the diaphragm (larger towards the apex), spine, descending aorta, fat behind the sternum."""
    within = inside(cavity, pixel)
    lx, ly, ls = patient.liver
    grow = 1 + 0.35 * level
    liver = ellipse(x, y, lx, ly + 6 - 16 * level, 66 * ls * grow, 36 * ls * grow, 0.25)
    paint("liver", inside(liver, 1.5 * pixel) * within)
    veins = [np.hypot(x - lx - 40 * vx, y - ly - 15 * vy) - 1.8 - vr for vx, vy, vr in patient.vessels[:8]]
    paint("vessel", inside(np.minimum.reduce(veins), 2 * pixel) * inside(liver + 6, 2))
    ax, ay, ar = patient.aorta
    paint("muscle", inside(ellipse(x, y, -30, 112, 52, 30), 2 * pixel))
    paint("bone", inside(ellipse(x, y, -14, 92, 19, 16), pixel))
    paint("fat", inside(np.hypot(x - ax, y - ay) - ar - 3.0, pixel))
    paint("muscle", inside(np.hypot(x - ax, y - ay) - ar - 1.2, pixel))
    paint("aorta", inside(np.hypot(x - ax, y - ay) - ar, pixel))
    paint("fat", inside(ellipse(x, y, -38, -62, 30, 14, -0.3), 2 * pixel) * within)


def _papillary(patient: Patient, level: float, body: Heart, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Two papillary muscles and the trabeculation between them; part of the LV cavity by ACDC's convention."""
    endo, _ = lv_rings(patient, level, 0.0)
    size = 0.17 * endo.radius * (0.4 + 1.2 * np.clip(level, 0.15, 0.75))
    muscles = []
    for angle in (0.75 + patient.rotation, 2.6 + patient.rotation):
        px = endo.centre[0] + 0.62 * endo.radius * np.cos(angle)
        py = endo.centre[1] + 0.62 * endo.radius * np.sin(angle)
        muscles.append(np.hypot(x - px, y - py) - size)
    around = np.arctan2(y - endo.centre[1], x - endo.centre[0])
    trabeculae = 2.2 * np.cos(13 * around + patient.texture_seed) - 0.3
    muscles.append(-(body.lv_endo + trabeculae))
    return muscles
