"""MR contrast of the tissues: bSSFP cine and the STONE inversion-recovery series; coil, noise, resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from prrmse.phantom.patient import Patient
from prrmse.phantom.shapes import rotated
from prrmse.phantom.tissue import TISSUES

# Cine bSSFP relative to LV blood: myocardium 0.41, RV blood 0.84 and background as measured on ACDC.
CINE = {
    "air": 0.0,
    "fat": 0.95,
    "muscle": 0.30,
    "lung": 0.07,
    "liver": 0.38,
    "spleen": 0.50,
    "stomach": 0.42,
    "bone": 0.42,
    "cortex": 0.05,
    "vessel": 0.95,
    "aorta": 1.05,
    "myocardium": 0.35,
    "rv_blood": 0.68,
    "lv_blood": 1.0,
}
_CINE_SPREAD = {"myocardium": 0.19, "rv_blood": 0.06, "fat": 0.20, "liver": 0.20, "stomach": 0.5, "spleen": 0.2}
# Native T1 in ms at 1.5 T (Stanisz et al. 2005; myocardium as in native STONE maps).
T1_MS = {
    "air": 1000.0,
    "fat": 300.0,
    "muscle": 980.0,
    "lung": 1100.0,
    "liver": 640.0,
    "spleen": 1050.0,
    "stomach": 1400.0,
    "bone": 550.0,
    "cortex": 400.0,
    "vessel": 1580.0,
    "aorta": 1580.0,
    "myocardium": 1090.0,
    "rv_blood": 1600.0,
    "lv_blood": 1580.0,
}
# Relaxed magnetisation with the T2/T1 weighting that the ramped bSSFP readout leaves (reconstruction).
M0 = {
    "air": 0.0,
    "fat": 0.85,
    "muscle": 0.46,
    "lung": 0.09,
    "liver": 0.50,
    "spleen": 0.62,
    "stomach": 0.55,
    "bone": 0.46,
    "cortex": 0.06,
    "vessel": 0.80,
    "aorta": 0.95,
    "myocardium": 0.60,
    "rv_blood": 0.94,
    "lv_blood": 1.0,
}
_FAT = TISSUES.index("fat")


def texture(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0 and SD 1, ``[H, W]``; `sigma` in pixels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, truncate=3.0, mode="wrap")
    found: np.ndarray = (field - field.mean()) / field.std()
    return found


def draw_cine_values(rng: np.random.Generator, myocardium_to_blood: float) -> dict[str, float]:
    """bSSFP signal of each tissue of one patient, LV blood 1 on average."""
    mean = {**CINE, "myocardium": CINE["myocardium"] * myocardium_to_blood / 0.41}
    return {t: v * float(np.clip(rng.normal(1, _CINE_SPREAD.get(t, 0.08)), 0.55, 1.6)) for t, v in mean.items()}


def fat_against_water(shares: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Signed signal ``[..., H, W]`` of tissue shares ``[T, H, W]`` for signals ``[..., T]``.

    At the echo time of bSSFP fat points against water, so their borders come out black.
    """
    signs = np.ones(len(TISSUES))
    signs[_FAT] = -0.9
    return np.tensordot(values * signs, shares, 1)


def cine(shares: np.ndarray, values: dict[str, float], rng: np.random.Generator) -> np.ndarray:
    """Noise-free bSSFP magnitude ``[H, W]``, LV blood about 1, with the unrest of tissue and of flowing blood."""
    shape = (shares.shape[1], shares.shape[2])
    image = np.abs(fat_against_water(shares, np.array([values[t] for t in TISSUES])))
    blood = shares[TISSUES.index("lv_blood")] + shares[TISSUES.index("rv_blood")]
    slow, fast = texture(shape, 4.0, rng), texture(shape, 1.6, rng)
    found: np.ndarray = image * (
        1 + 0.045 * fast + (0.10 * shares[_FAT] + 0.04) * slow + blood * (0.09 * slow - 0.02 * fast)
    )
    return found


@dataclass(frozen=True)
class Stone:
    """One patient's STONE acquisition: inversion times ``[11]`` (ms; inf: none), efficiency, T1 by tissue (ms)."""

    times: np.ndarray
    efficiency: float
    t1: dict[str, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Stone:
        """Two inversions, near 135 and 350 ms, each seen at five heart beats (Weingartner et al. 2015)."""
        t1 = {tissue: value * rng.normal(1, 0.04) for tissue, value in T1_MS.items()}
        t1["myocardium"] = float(np.clip(rng.normal(1090, 60), 950, 1300))
        beat = rng.uniform(700, 1100)
        beats = np.arange(5)[:, None] * beat * (1 + 0.02 * rng.standard_normal((5, 2)))
        times = np.sort((np.array([rng.normal(135, 4), rng.normal(350, 6)]) + beats).ravel())
        return cls(np.append(np.round(times, 1), np.inf), float(rng.uniform(0.95, 1.0)), t1)

    def signals(self, shares: np.ndarray) -> np.ndarray:
        """Noise-free signed signal ``[11, H, W]`` of tissue shares ``[T, H, W]``: M0 (1 - 2 e exp(-TI / T1))."""
        t1, m0 = (np.array([table[t] for t in TISSUES]) for table in (self.t1, M0))
        return fat_against_water(shares, m0 * (1 - 2 * self.efficiency * np.exp(-self.times[:, None] / t1)))


def coil_bias(
    patient: Patient, x: np.ndarray, y: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> np.ndarray:
    """Receive shading ``[H, W]``, 1 at the heart: steeply brighter at the chest wall, a little at the back.

    A `strength` below 1 stands for a scanner that corrects part of it.
    """
    u, v = rotated(x - patient.centre[0], y - patient.centre[1], patient.thorax.turn)
    reach, front, back = rng.uniform(38, 60), rng.uniform(0.5, 1.4), rng.uniform(0.1, 0.5)
    tilt = rng.normal(0, 0.0018)

    def shading(across: np.ndarray, down: np.ndarray) -> np.ndarray:
        near = front * np.exp(-(down + 62 + 0.0015 * across**2) / reach)
        return (0.5 + near + back * np.exp((down - 140) / 50)) * np.exp(tilt * across)

    found: np.ndarray = (shading(u, v) / shading(np.zeros(1), np.zeros(1))) ** strength
    return found


def acquire(image: np.ndarray, noise: float, blur: float, rng: np.random.Generator) -> np.ndarray:
    """Finite resolution and Rician noise, for images ``[..., H, W]``.

    Args:
        image: noise-free, magnitude or signed.
        noise: SD in the units of the image.
        blur: SD of the point spread, pixels; the noise is correlated a little less widely.
        rng: draws the noise.
    """
    axes = (-2, -1)
    smooth = ndimage.gaussian_filter(image, blur, axes=axes, truncate=3.0)
    grain = ndimage.gaussian_filter(rng.standard_normal((2, *image.shape)), 0.8 * blur, axes=axes, truncate=3.0)
    real, imaginary = grain * (noise / grain.std())
    found: np.ndarray = np.hypot(smooth + real, imaginary)
    return found
