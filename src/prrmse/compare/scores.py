"""Transferability scores: how well a source's features suit the target's labels, without any fine-tuning.

Established scores for classification and segmentation, on the features of sampled pixels (`prrmse.compare.features`).
In all of them larger is better. None of them is of the PR-RMSE paper. A plain name follows the equations of the
publication that it names; ``_code`` is the authors' public code where that computes something else.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist
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
    Both covariances divide by n. Public implementations that divide the second one by n - 1 print n / (n - 1) times
    this value.

    Args:
        feature: ``[n, D]``.
        label: integer classes ``[n]``.
    """
    centred = feature.astype(np.float64) - feature.mean(0, dtype=np.float64)
    from sklearn.covariance import ledoit_wolf  # takes a second, which only this score needs

    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    means = np.zeros_like(centred)
    for c in np.unique(label):
        means[label == c] = centred[label == c].mean(0)
    between = means.T @ means / len(means)
    return float((1 - shrinkage) * np.trace(np.linalg.lstsq(covariance, between, rcond=None)[0]))


GBC_FLOOR = 1e-4  # the authors': a class whose features do not vary in a channel


def gbc(feature: np.ndarray, label: np.ndarray) -> float:
    """GBC (Pandy et al. 2022): minus the overlap of every two classes as Gaussians with spherical covariance.

    The overlap is the Bhattacharyya coefficient exp(-D), summed over ordered pairs of classes: 0 is best. By the
    publication D = |m1 - m2|^2 / (8 v) + log(det V / sqrt(det V1 det V2)) / 2, with V = (V1 + V2) / 2; here V1 = v1 I,
    where v1 is the mean over channels of the class's variances, each at least `GBC_FLOOR` as in the authors' code. The
    publication reduces features to 64 channels by PCA first; here they enter as they are.

    Args:
        feature: ``[n, D]``.
        label: integer classes ``[n]``.
    """
    mean, variance = _class_moments(feature, label)
    spherical = np.broadcast_to(variance.mean(1, keepdims=True), variance.shape)
    return _overlap(mean, spherical)


def gbc_diagonal(feature: np.ndarray, label: np.ndarray) -> float:
    """`gbc` with a variance for each channel: the authors' other variant."""
    return _overlap(*_class_moments(feature, label))


def gbc_code(feature: np.ndarray, label: np.ndarray) -> float:
    """`gbc` as the authors' public code (google-research, stable_transfer) computes its default, ``spherical``.

    It takes the logarithm of the one variance where the determinant of D equal ones stands in the publication, so that
    the second term of the distance is D times smaller.
    """
    mean, variance = _class_moments(feature, label)
    spherical = np.broadcast_to(variance.mean(1, keepdims=True), variance.shape)
    return _overlap(mean, spherical, share=1 / variance.shape[1])


def _class_moments(feature: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (at least `GBC_FLOOR`) of every class, each ``[classes, D]``."""
    groups = [feature[label == c].astype(np.float64) for c in np.unique(label)]
    return np.stack([g.mean(0) for g in groups]), np.maximum(np.stack([g.var(0) for g in groups]), GBC_FLOOR)


def _overlap(mean: np.ndarray, variance: np.ndarray, share: float = 1.0) -> float:
    """Minus the summed Bhattacharyya coefficients of Gaussians ``[classes, D]``; ``share`` scales the log term."""
    both = (variance[:, None] + variance[None]) / 2
    logs = np.log(variance).sum(-1)
    distance = ((mean[:, None] - mean[None]) ** 2 / both).sum(-1) / 8
    distance += share * (np.log(both).sum(-1) - (logs[:, None] + logs[None]) / 2) / 2
    return float(-np.exp(-distance[~np.eye(len(mean), dtype=bool)]).sum())


def cc_fv(layers: list[np.ndarray], label: np.ndarray, patient: np.ndarray) -> float:
    """CC-FV (Yang et al. 2023, equations 1 to 5): a class's features should agree between cases, and all be various.

    Mean over layers of log(variety / consistency). Consistency (2): the 2-Wasserstein distance between the features of
    one foreground class in two cases, as Gaussians (1), mean over pairs of cases, summed over classes. Variety (4): the
    inverse hyperspherical potential energy (3, s = 1) of a case's features, mean over cases.

    Where the publication leaves a choice: a case is a patient; features are scaled to the unit sphere for the energy,
    on which it is defined; covariances divide by n - 1, as in the authors' code; the pixels of the energy are those of
    all classes (`prrmse.compare.features.sample_pixels`); a class or case of fewer than two pixels is left out.

    Args:
        layers: features ``[n, D]`` of several layers, at the same pixels.
        label: integer classes ``[n]``, 0 the background.
        patient: ``[n]``.

    Returns:
        NaN if no class occurs in two patients.
    """
    values = []
    for feature in layers:
        distances = _distances(feature, label, patient)
        if not distances:
            return float("nan")
        consistency = max(sum(float(np.mean(own)) for own in distances), 1e-30)
        cases = [feature[patient == p].astype(np.float64) for p in np.unique(patient)]
        variety = np.mean([1 / potential_energy(case) for case in cases if len(case) > 1])
        values.append(np.log(variety / consistency))
    return float(np.mean(values))


def cc_fv_code(layers: list[np.ndarray], label: np.ndarray, patient: np.ndarray) -> float:
    """CC-FV as the authors' public code computes it (EndoluminalSurgicalVision-IMR/CCFV), against their equations.

    Sum over layers of log(energy / consistency). The energy, not its inverse, is that of the cases' mean features,
    unscaled, with 1e-3 added to squared distances. The consistency adds the distances of class after class, and after
    each class what has been added so far, over half the squared number of cases and the number of classes.

    Args, returns: see `cc_fv`.
    """
    total = 0.0
    for feature in layers:
        distances = _distances(feature, label, patient)
        if not distances:
            return float("nan")
        consistency = 0.0
        for own in distances:
            cases = (1 + np.sqrt(1 + 8 * len(own))) / 2  # of so many pairs
            consistency += sum(own)
            consistency *= 1 + 2 / cases**2 / len(distances)
        means = np.stack([feature[patient == p].mean(0, dtype=np.float64) for p in np.unique(patient)])
        energy = np.mean(1 / np.sqrt(pdist(means, "sqeuclidean") + 1e-3))
        total += np.log(energy / max(consistency, 1e-30))
    return float(total)


def _distances(feature: np.ndarray, label: np.ndarray, patient: np.ndarray) -> list[list[float]]:
    """For each foreground class the 2-Wasserstein distances of every two patients; only classes with one."""
    found = []
    for c in np.unique(label[label > 0]):
        groups = [feature[(label == c) & (patient == p)] for p in np.unique(patient[label == c])]
        groups = [group.astype(np.float64) for group in groups if len(group) > 1]
        found.append([wasserstein(a, b) for i, a in enumerate(groups) for b in groups[:i]])
    return [own for own in found if own]


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """2-Wasserstein distance of two samples ``[n, D]``, ``[m, D]``, as Gaussians.

    Its square is |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)); the last trace is the nuclear norm of X Y' for the
    centred samples, so that no D x D matrix is made.
    """
    x, y = ((s - s.mean(0)) / np.sqrt(len(s) - 1) for s in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    square = ((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross
    return float(np.sqrt(max(square, 0.0)))


def potential_energy(feature: np.ndarray) -> float:
    """Hyperspherical potential energy, s = 1: the sum over ordered pairs of features ``[n, D]`` of 1 / their distance.

    On the unit sphere; equal ones count as 1e-3 apart.
    """
    unit = feature / np.maximum(np.linalg.norm(feature, axis=1, keepdims=True), 1e-12)
    return float(2 * (1 / np.maximum(pdist(unit), 1e-3)).sum())


def linear_cka(a: np.ndarray, b: np.ndarray) -> float:
    """Linear CKA (Kornblith et al. 2019) of two sets of features ``[n, D]``, ``[n, E]``: 1 for equal up to rotation.

    NaN if one of them is constant.
    """
    x, y = (f.astype(np.float64) - f.mean(0, dtype=np.float64) for f in (a, b))
    own = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / own) if own > 0 else float("nan")
