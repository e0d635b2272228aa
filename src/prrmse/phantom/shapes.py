"""Geometric primitives: signed distances, closed angular profiles, smooth warps, pixel shares.

Lengths are mm, x to the right and y down. A distance is negative inside. Everything is float64: the last
bit of a float32 sine differs between processors, and the cohorts are compared by their bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ANGLES = 720


def inside(distance: np.ndarray, width: float) -> np.ndarray:
    """Share of a pixel that lies inside a surface, ``[H, W]``: 1 within, 0 without, a ramp of `width` mm between."""
    return np.clip(0.5 - distance / width, 0, 1)


def rotated(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in axes turned by `angle` (radians, from x towards y)."""
    c, s = np.cos(angle), np.sin(angle)
    return x * c + y * s, y * c - x * s


def ellipse(x: np.ndarray, y: np.ndarray, cx: float, cy: float, a: float, b: float, tilt: float = 0.0) -> np.ndarray:
    """Distance (to first order, mm) to an ellipse with half axes a, b, ``[H, W]``."""
    p, q = rotated(x - cx, y - cy, tilt)
    norm = np.hypot(p / a, q / b)
    found: np.ndarray = (norm - 1) * min(a, b) * np.clip(np.hypot(p, q) / (min(a, b) * norm + 1e-9), 1, 3)
    return found


@dataclass(frozen=True)
class Profile:
    """A smooth function of the angle, kept as a table: cheaper than sums of cosines on a whole image."""

    table: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, orders: range, scale: float, decay: float = 1.0) -> Profile:
        """Random harmonics of the given orders; SD about `scale`, falling with order^-decay."""
        angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
        weight = np.array([float(k) ** -decay for k in orders])
        weight *= scale / np.sqrt(np.sum(weight**2))
        phases = rng.uniform(0, 2 * np.pi, len(orders))
        waves = [w * np.sqrt(2) * np.cos(k * angle + p) for k, w, p in zip(orders, weight, phases, strict=True)]
        return cls(np.sum(waves, axis=0))

    def at(self, angle: np.ndarray) -> np.ndarray:
        """Values at angles in radians."""
        return self.table[np.rint(angle * (_ANGLES / (2 * np.pi))).astype(np.intp) % _ANGLES]


@dataclass(frozen=True)
class Warp:
    """A smooth displacement of the plane, drifting with depth: makes ideal shapes look grown."""

    waves: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, amplitude_mm: float, shortest_mm: float, longest_mm: float) -> Warp:
        """Five plane waves; the RMS displacement along each axis is `amplitude_mm`."""
        n = 5
        length, heading = rng.uniform(shortest_mm, longest_mm, n), rng.uniform(0, 2 * np.pi, n)
        k = 2 * np.pi / length
        toward = rng.uniform(0, 2 * np.pi, n)
        size = amplitude_mm * 2 / np.sqrt(n)
        rows = [k * np.cos(heading), k * np.sin(heading), rng.uniform(0, 2 * np.pi, n), rng.normal(0, 1.2, n)]
        return cls(np.stack([*rows, size * np.cos(toward), size * np.sin(toward)]))

    def apply(self, x: np.ndarray, y: np.ndarray, depth: float) -> tuple[np.ndarray, np.ndarray]:
        """Displaced copies of ``x, y [H, W]`` at a depth (0 base, 1 apex)."""
        dx, dy = np.zeros_like(x), np.zeros_like(y)
        for kx, ky, phase, drift, ax, ay in self.waves.T:
            wave = np.sin(kx * x + ky * y + phase + drift * depth)
            dx += ax * wave
            dy += ay * wave
        return x + dx, y + dy
