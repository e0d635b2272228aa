"""MR contrast of the tissues: bSSFP cine and the STONE inversion-recovery series; coil, noise, resolution."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from prrmse.phantom.anatomy import TISSUES

# Cine bSSFP, relative to LV blood. Myocardium 0.41 and RV blood 0.84 as measured on ACDC.
CINE = {
    "air": 0.0,
    "fat": 1.15,
    "muscle": 0.33,
    "lung": 0.07,
    "liver": 0.40,
    "bone": 0.36,
    "aorta": 1.0,
    "vessel": 0.70,
    "myocardium": 0.41,
    "rv_blood": 0.84,
    "lv_blood": 1.0,
}
# Native T1 in ms and relaxed magnetisation (with the T2/T1 weighting of the readout), 1.5 T.
T1_MS = {
    "air": 1000.0,
    "fat": 300.0,
    "muscle": 980.0,
    "lung": 1100.0,
    "liver": 640.0,
    "bone": 550.0,
    "aorta": 1580.0,
    "vessel": 1580.0,
    "myocardium": 1090.0,
    "rv_blood": 1600.0,
    "lv_blood": 1580.0,
}
M0 = {
    "air": 0.0,
    "fat": 1.0,
    "muscle": 0.5,
    "lung": 0.12,
    "liver": 0.55,
    "bone": 0.5,
    "aorta": 0.95,
    "vessel": 0.8,
    "myocardium": 0.62,
    "rv_blood": 0.95,
    "lv_blood": 1.0,
}


def texture(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0 and SD 1, ``[H, W]``."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
    return (field - field.mean()) / field.std()


def cine(shares: np.ndarray, values: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Noise-free bSSFP image of LV blood 1, from tissue shares ``[T, H, W]``."""
    shape = shares.shape[1:]
    image = np.tensordot([values[t] for t in TISSUES], shares, 1)
    flow = shares[TISSUES.index("lv_blood")] + shares[TISSUES.index("rv_blood")]
    image *= 1 + 0.05 * texture(shape, 1.5, rng)
    return image * (1 + 0.09 * flow * texture(shape, 4.0, rng))


def draw_cine_values(rng: np.random.Generator) -> dict[str, float]:
    """Tissue contrast of one patient, around the measured means."""
    spread = {"myocardium": 0.16, "rv_blood": 0.12, "fat": 0.2, "liver": 0.2}
    return {t: v * float(np.clip(rng.normal(1, spread.get(t, 0.08)), 0.6, 1.4)) for t, v in CINE.items()}


def inversion_recovery(shares: np.ndarray, t1: dict[str, float], inversion_ms: float, efficiency: float) -> np.ndarray:
    """Noise-free magnitude |sum over tissues of M0 (1 - 2 e exp(-TI / T1))|; TI inf: no inversion."""
    weight = [M0[t] * (1 - 2 * efficiency * np.exp(-inversion_ms / t1[t])) for t in TISSUES]
    return np.asarray(np.tensordot(weight, shares, 1))


def stone_times(rng: np.random.Generator) -> np.ndarray:
    """The 11 inversion times in ms, ascending; the last image has none (inf).

    Two inversions, near 135 and 350 ms, each sampled at five heart beats (Weingartner et al. 2015).
    """
    beat = rng.uniform(700, 1100)
    beats = np.arange(5)[:, None] * beat * (1 + 0.02 * rng.standard_normal((5, 2)))
    return np.append(np.sort((np.array([135.0, 350.0]) + beats).ravel()), np.inf)


def coil_bias(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Receive shading, ``[H, W]``, about 1 at the centre: brighter towards the chest wall."""
    u, v = x / 100, y / 100
    slope = 0.30 * rng.normal(1, 0.3)
    return np.exp(-slope * v + 0.15 * rng.standard_normal() * u - 0.12 * (u**2 + v**2))


def acquire(image: np.ndarray, noise: float, blur: float, rng: np.random.Generator) -> np.ndarray:
    """Finite resolution (SD of the blur in pixels) and Rician noise."""
    smooth = ndimage.gaussian_filter(image, blur)
    real, imaginary = noise * rng.standard_normal((2, *image.shape))
    return np.hypot(smooth + real, imaginary)
