"""Transferability scores: how well a source's features suit the target's labels, without any fine-tuning.

Established scores for classification and segmentation, on the features of sampled pixels (`prrmse.compare.features`).
In all of them larger is better. None of them is of the paper; each formula is written from the publication that it
names.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp


def leep(log_probability: np.ndarray, label: np.ndarray) -> float:
    """LEEP (Nguyen et al. 2020): mean log-likelihood of the labels by way of the source's own classes.

    Args:
        log_probability: of the source's classes, ``[n, Z]``.
        label: integer classes of the target, ``[n]``.
    """
    classes, index = np.unique(label, return_inverse=True)
    joint = np.stack([np.exp(log_probability[index == c]).sum(0) for c in range(len(classes))]) / len(label)  # [Y, Z]
    total = joint.sum(0)
    with np.errstate(divide="ignore"):
        conditional = np.log(joint / np.where(total > 0, total, 1))  # a source class that never occurs takes no part
    return float(logsumexp(conditional[index] + log_probability, axis=1).mean())


def logme(feature: np.ndarray, label: np.ndarray, rounds: int = 100) -> float:
    """LogME (You et al. 2021): log evidence of a Bayesian linear model of each class, per pixel, mean over classes.

    Prior and noise precision are set to maximise the evidence, by MacKay's fixed point.

    Args:
        feature: ``[n, D]``.
        label: integer classes ``[n]``.
        rounds: of the fixed point, at most.
    """
    n = len(feature)
    u, s, _ = np.linalg.svd(feature.astype(np.float64), full_matrices=False)
    square = s**2
    found = []
    for c in np.unique(label):
        y = (label == c).astype(np.float64)
        z = u.T @ y
        outside = max(float(y @ y - z @ z), 0.0)  # what no combination of the features explains
        alpha = beta = 1.0
        for _ in range(rounds):
            shrink = beta * square / (alpha + beta * square)
            gamma = shrink.sum()
            weights = float((shrink**2 * z**2 / np.where(square > 0, square, np.inf)).sum())
            residual = float(((1 - shrink) ** 2 * z**2).sum()) + outside
            new = gamma / max(weights, 1e-12), (n - gamma) / max(residual, 1e-12)
            done = np.allclose(new, (alpha, beta), rtol=1e-6)
            alpha, beta = new
            if done:
                break
        found.append(_evidence(alpha, beta, square, z, outside, n) / n)
    return float(np.mean(found))


def _evidence(alpha: float, beta: float, square: np.ndarray, z: np.ndarray, outside: float, n: int) -> float:
    """Log density of y under N(0, F F' / alpha + I / beta), from the singular values of F."""
    variance = square / alpha + 1 / beta
    log_determinant = np.log(variance).sum() - (n - len(square)) * np.log(beta)
    return float(-0.5 * (n * np.log(2 * np.pi) + log_determinant + (z**2 / variance).sum() + beta * outside))


def h_score(feature: np.ndarray, label: np.ndarray) -> float:
    """H-score (Bao et al. 2019), regularised: tr(cov(f)^-1 cov(E[f|y])) with cov(f) shrunk.

    Shrinkage after Ledoit and Wolf 2004, and the score times what it left (Ibrahim, Ponomareva and Mazumder 2022).

    Args:
        feature: ``[n, D]``.
        label: integer classes ``[n]``.
    """
    centred = feature.astype(np.float64) - feature.mean(0, dtype=np.float64)
    covariance, shrinkage = ledoit_wolf(centred)
    means = np.zeros_like(centred)
    for c in np.unique(label):
        means[label == c] = centred[label == c].mean(0)
    between = means.T @ means / len(means)
    return float((1 - shrinkage) * np.trace(np.linalg.lstsq(covariance, between, rcond=None)[0]))


def ledoit_wolf(centred: np.ndarray) -> tuple[np.ndarray, float]:
    """The covariance of centred data ``[n, D]``, shrunk towards a multiple of the identity; and by how much."""
    n, d = centred.shape
    sample = centred.T @ centred / n
    level = np.trace(sample) / d
    spread = ((sample - level * np.eye(d)) ** 2).sum()
    noise = ((centred**2).sum(1) ** 2).sum() / n**2 - (sample**2).sum() / n
    shrinkage = float(np.clip(noise / spread, 0, 1)) if spread > 0 else 0.0
    return (1 - shrinkage) * sample + shrinkage * level * np.eye(d), shrinkage


def gbc(feature: np.ndarray, label: np.ndarray) -> float:
    """GBC (Pandy et al. 2022): minus the overlap of every two classes as Gaussians with diagonal covariance.

    The overlap is the Bhattacharyya coefficient, summed over ordered pairs of classes: 0 is best.

    Args:
        feature: ``[n, D]``.
        label: integer classes ``[n]``.
    """
    feature = feature.astype(np.float64)
    floor = 1e-6 * feature.var(0).mean() + 1e-12  # a channel that is constant within a class
    classes = np.unique(label)
    mean = np.stack([feature[label == c].mean(0) for c in classes])
    variance = np.stack([feature[label == c].var(0) for c in classes]) + floor
    both = (variance[:, None] + variance[None]) / 2
    distance = ((mean[:, None] - mean[None]) ** 2 / both).sum(-1) / 8
    logs = np.log(variance).sum(-1)
    distance += (np.log(both).sum(-1) - (logs[:, None] + logs[None]) / 2) / 2
    return float(-np.exp(-distance[~np.eye(len(classes), dtype=bool)]).sum())


def cc_fv(layers: list[np.ndarray], label: np.ndarray, patient: np.ndarray, rows: int = 1000) -> float:
    """CC-FV (Yang et al. 2023): features of a class should agree between patients, and all together be various.

    Sum over layers of log(variety / consistency). Consistency: the mean 2-Wasserstein distance (squared) between the
    features of one foreground class in two patients, as Gaussians. Variety: the inverse of the hyperspherical potential
    energy, the mean inverse distance of two features on the unit sphere. Written from the abstract and what is known of
    the method: the paper's constants were not at hand [rec].

    Args:
        layers: features ``[n, D]`` of several layers, at the same pixels.
        label: integer classes ``[n]``, 0 the background.
        patient: ``[n]``.
        rows: pixels that enter the variety, at most, evenly spaced.
    """
    total = 0.0
    for feature in layers:
        distances = []
        for c in np.unique(label[label > 0]):
            groups = [feature[(label == c) & (patient == p)] for p in np.unique(patient[label == c])]
            groups = [group.astype(np.float64) for group in groups if len(group) > 1]
            distances += [wasserstein(a, b) for i, a in enumerate(groups) for b in groups[:i]]
        if not distances:
            return float("nan")
        energy = potential_energy(feature[:: max(1, len(feature) // rows)].astype(np.float64))
        total -= np.log(max(float(np.mean(distances)), 1e-30)) + np.log(energy)
    return float(total)


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of two samples ``[n, D]``, ``[m, D]``, as Gaussians.

    |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)); the last trace is the nuclear norm of X Y' for the centred samples,
    so that no D x D matrix is made.
    """
    x, y = ((s - s.mean(0)) / np.sqrt(len(s)) for s in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(float(((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross), 0.0)


def potential_energy(feature: np.ndarray) -> float:
    """Mean inverse distance of two features ``[n, D]`` on the unit sphere; equal ones count as 1e-3 apart."""
    unit = feature / np.maximum(np.linalg.norm(feature, axis=1, keepdims=True), 1e-12)
    square = np.maximum(2 - 2 * unit @ unit.T, 1e-6)
    return float((1 / np.sqrt(square))[~np.eye(len(unit), dtype=bool)].mean())


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA (Kornblith et al. 2019) of two sets of features ``[n, D]``, ``[n, E]``: 1 for equal up to rotation.

    NaN if one of them is constant.
    """
    x, y = (f.astype(np.float64) - f.mean(0, dtype=np.float64) for f in (a, b))
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / own) if own > 0 else float("nan")
