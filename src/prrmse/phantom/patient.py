"""Who a phantom patient is: the draws of one anatomy.

Sizes follow what was measured on the ACDC training set (mean +- SD at ED in the middle slice: LV cavity
diameter 52 +- 10 mm, wall 8 +- 2 mm, RV area 1680 +- 855 mm2), and the diagnostic groups its definition:
dilated LV (DCM), thick wall (HCM), dilated LV with a thin scar (MINF), large RV (RV).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prrmse.phantom.shapes import Profile, Warp

GROUPS = ("DCM", "HCM", "MINF", "NOR", "RV")


@dataclass(frozen=True)
class _Shape:
    radius: float
    wall: float
    rv: float
    shortening: float
    rv_squeeze: float


# Tuned until volumes and ejection fractions came near the means of ACDC's groups.
_GROUP_SHAPE = {
    "NOR": _Shape(24.3, 7.1, 0.93, 0.40, 1.0),
    "DCM": _Shape(34.0, 8.4, 1.03, 0.10, 0.6),
    "HCM": _Shape(24.2, 12.2, 0.86, 0.47, 1.05),
    "MINF": _Shape(29.7, 8.4, 0.94, 0.20, 0.95),
    "RV": _Shape(23.0, 5.9, 1.10, 0.36, 0.72),
}


@dataclass(frozen=True)
class Heart:
    """The ventricles: mm, radians, shares.

    `shortening` is the share of the LV radius lost from ED to ES, `rv_squeeze` the contraction of the RV relative to a
    healthy one.
    """

    lv_radius: float
    wall: float
    rv_size: float
    shortening: float
    rv_squeeze: float
    length: float
    turn: float
    rv_direction: float
    rv_tilt: float
    lean: tuple[float, float]
    outline: Profile
    endo_outline: Profile
    rv_outline: Profile
    thickness: Profile
    trabeculae: Profile
    papillary: np.ndarray
    fat_pad: Profile
    fat: float
    warp: Warp
    scar: float


@dataclass(frozen=True)
class Thorax:
    """What surrounds the heart, in axes turned by `turn`, heart at the origin, chest wall at the top (mm)."""

    turn: float
    body: tuple[float, float, float, float]
    fat: float
    fat_profile: Profile
    wall: float
    rib_profile: Profile
    rib_pitch: float
    rib_phase: float
    dome: tuple[float, float, float]
    liver: tuple[float, float, float, float]
    stomach: tuple[float, float, float, float, float]
    gas: float
    spleen: tuple[float, float, float]
    aorta: tuple[float, float, float]
    cava: tuple[float, float, float]
    spine: tuple[float, float]
    mediastinum: tuple[float, float, float]
    warp: Warp


@dataclass(frozen=True)
class Patient:
    """One patient; `centre` is the heart's place in the image, mm from the image centre."""

    group: str
    centre: tuple[float, float]
    heart: Heart
    thorax: Thorax


def draw_patient(rng: np.random.Generator, group: str) -> Patient:
    """One patient of a diagnostic group (of `GROUPS`)."""
    habitus = rng.normal()
    centre = (float(rng.normal(-14, 6)), float(rng.normal(1, 7)))
    heart = _draw_heart(rng, group, habitus)
    return Patient(group, centre, heart, _draw_thorax(rng, habitus, heart))


def _draw_heart(rng: np.random.Generator, group: str, habitus: float) -> Heart:
    shape = _GROUP_SHAPE[group]
    size = float(np.clip(rng.normal(1.0, 0.08), 0.82, 1.2))
    turn = rng.normal(0, 0.16)
    papillary = np.array([[0.15, 0.62, 0.19, 0.30], [1.85, 0.62, 0.19, 0.30]])
    papillary = papillary + rng.normal(0, 1, (2, 4)) * [0.22, 0.05, 0.03, 0.06]
    return Heart(
        lv_radius=shape.radius * size * rng.normal(1.0, 0.06),
        wall=max(4.6, shape.wall * rng.normal(1.0, 0.10)),
        rv_size=min(shape.rv * size * float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.25)), 1.42),
        shortening=float(np.clip(rng.normal(shape.shortening, 0.04), 0.06, 0.5)),
        rv_squeeze=shape.rv_squeeze * float(np.clip(rng.normal(1.0, 0.08), 0.8, 1.2)),
        length=88 * size * (1.08 if group == "DCM" else 1.0),
        turn=turn,
        rv_direction=np.pi + 0.30 + turn + rng.normal(0, 0.10),
        rv_tilt=0.25 + turn + rng.normal(0, 0.12),
        lean=(rng.normal(5, 3), rng.normal(2, 3)),
        outline=Profile.draw(rng, range(2, 6), 0.024),
        endo_outline=Profile.draw(rng, range(2, 8), 0.020, 0.8),
        rv_outline=Profile.draw(rng, range(2, 6), 0.055),
        thickness=Profile.draw(rng, range(1, 4), 0.07),
        trabeculae=Profile.draw(rng, range(5, 22), 1.0, 0.5),
        papillary=papillary,
        fat_pad=Profile.draw(rng, range(1, 8), 1.0, 0.5),
        fat=float(np.clip(3.2 + 1.3 * habitus + rng.normal(0, 0.8), 0.5, 7.5)),
        warp=Warp.draw(rng, 0.9, 40, 90),
        scar=rng.uniform(-0.5 * np.pi, 0.75 * np.pi),
    )


def _draw_thorax(rng: np.random.Generator, habitus: float, heart: Heart) -> Thorax:
    fat = float(np.clip(15 + 6 * habitus + rng.normal(0, 2.5), 5, 34))
    wall = rng.normal(14, 1.5)
    # A large heart pushes the chest wall forward rather than through it.
    front = 24 + 0.62 * (heart.lv_radius + heart.wall) + 12 * (heart.rv_size - 0.8) + abs(rng.normal(0, 5))
    side, half = 138 + 7 * habitus + rng.normal(0, 6), 108 + 6 * habitus
    return Thorax(
        # Short-axis planes are oblique: the chest wall comes in from the top left at varying angles.
        turn=float(np.clip(rng.normal(-0.75, 0.38), -1.45, 0.05)),
        body=(rng.normal(-8, 8), half - front - fat - wall, side, half),
        fat=fat,
        fat_profile=Profile.draw(rng, range(1, 5), 0.16, 0.7),
        wall=wall,
        rib_profile=Profile.draw(rng, range(1, 12), 0.35, 0.3),
        rib_pitch=rng.uniform(24, 32),
        rib_phase=rng.uniform(0, 1),
        dome=(rng.normal(41, 4), rng.normal(-12, 15), rng.uniform(95, 190)),
        liver=(rng.normal(-52, 11), rng.normal(86, 7), rng.normal(86, 8), rng.normal(64, 5)),
        stomach=(rng.normal(44, 9), rng.normal(82, 7), rng.normal(27, 4), rng.normal(19, 3), rng.normal(0.3, 0.4)),
        gas=rng.uniform(-25, 8),
        spleen=(rng.normal(92, 7), rng.normal(88, 8), rng.normal(19, 3)),
        aorta=(rng.normal(16, 8), rng.normal(84, 6), rng.normal(10.5, 1.2)),
        cava=(rng.normal(-36, 8), rng.normal(68, 6), rng.normal(8, 1.5)),
        spine=(rng.normal(-16, 4), rng.normal(103, 4)),
        mediastinum=(rng.normal(-27, 5), rng.normal(-2, 6), float(np.clip(22 + 8 * habitus, 12, 42))),
        warp=Warp.draw(rng, 2.6, 60, 170),
    )
