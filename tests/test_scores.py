"""Every score against an independent computation of its definition, and against planted truth."""

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, initialise
from scipy import linalg, optimize, stats
from torch.nn import functional as F

from prrmse.compare.features import features, sample_pixels
from prrmse.compare.scores import (
    cc_fv,
    gbc,
    h_score,
    ledoit_wolf,
    leep,
    linear_cka,
    logme,
    potential_energy,
    wasserstein,
)
from prrmse.learning.evaluate import Evaluation


@pytest.fixture(scope="module")
def sample():
    """Features of three classes in four patients, in the first half of the channels."""
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], 40)
    patient = np.tile(np.arange(4), 30)
    feature = rng.standard_normal((120, 6)) @ rng.standard_normal((6, 6))
    feature[:, :3] += 2 * np.eye(3)[label]
    return feature, label, patient


def test_leep_equals_its_definition(sample):
    _, label, _ = sample
    rng = np.random.default_rng(1)
    probability = rng.dirichlet(np.ones(5), len(label))
    expected = 0.0
    for i in range(len(label)):
        total = 0.0
        for z in range(5):
            of_class = sum(probability[j, z] for j in range(len(label)) if label[j] == label[i])
            total += of_class / probability[:, z].sum() * probability[i, z]
        expected += np.log(total) / len(label)
    assert leep(np.log(probability), label) == pytest.approx(expected, rel=1e-9)


def test_leep_of_a_perfect_source_is_zero(sample):
    _, label, _ = sample
    with np.errstate(divide="ignore"):
        assert leep(np.log(np.eye(4)[label]), label) == pytest.approx(0, abs=1e-9)


def test_logme_is_the_largest_evidence(sample):
    feature, label, _ = sample

    def negative(logs, y):
        alpha, beta = np.exp(logs)
        covariance = feature @ feature.T / alpha + np.eye(len(y)) / beta
        return -stats.multivariate_normal(np.zeros(len(y)), covariance).logpdf(y) / len(y)

    best = []
    for c in range(3):
        y = (label == c).astype(float)
        best.append(-optimize.minimize(negative, [0.0, 1.0], args=(y,), method="Nelder-Mead", tol=1e-9).fun)
    assert logme(feature, label) == pytest.approx(np.mean(best), rel=1e-6)


def test_logme_with_more_channels_than_pixels_is_finite():
    rng = np.random.default_rng(0)
    assert np.isfinite(logme(rng.standard_normal((20, 50)), np.arange(20) % 3))


def test_h_score_equals_its_definition(sample):
    feature, label, _ = sample
    centred = feature - feature.mean(0)
    n, d = feature.shape
    sample_covariance = sum(np.outer(x, x) for x in centred) / n
    level = np.trace(sample_covariance) / d
    distance = np.linalg.norm(sample_covariance - level * np.eye(d)) ** 2
    noise = sum(np.linalg.norm(np.outer(x, x) - sample_covariance) ** 2 for x in centred) / n**2
    covariance, shrinkage = ledoit_wolf(centred)
    assert shrinkage == pytest.approx(noise / distance)
    assert 0 < shrinkage < 1
    between = sum(np.outer(*(2 * [centred[label == c].mean(0)])) * (label == c).mean() for c in range(3))
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ between)
    assert h_score(feature, label) == pytest.approx(expected)


def test_gbc_equals_its_definition(sample):
    feature, label, _ = sample
    expected = 0.0
    for i in range(3):
        for j in range(3):
            if i != j:
                a, b = (feature[label == c] for c in (i, j))
                mid = np.diag((a.var(0) + b.var(0)) / 2)
                delta = a.mean(0) - b.mean(0)
                distance = delta @ np.linalg.inv(mid) @ delta / 8
                dets = [np.linalg.det(np.diag(x.var(0))) for x in (a, b)]
                distance += np.log(np.linalg.det(mid) / np.sqrt(np.prod(dets))) / 2
                expected -= np.exp(-distance)
    assert gbc(feature, label) == pytest.approx(expected, rel=1e-4)


def test_wasserstein_equals_its_definition(sample):
    feature, label, _ = sample
    a, b = feature[label == 0], feature[label == 1]
    covariances = [np.cov(x.T, bias=True) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert wasserstein(a, b) == pytest.approx(expected)
    assert wasserstein(a, a) == pytest.approx(0, abs=1e-9)


def test_potential_energy_equals_its_definition(sample):
    feature = sample[0][::7]
    unit = [x / np.linalg.norm(x) for x in feature]
    pairs = [1 / np.linalg.norm(a - b) for i, a in enumerate(unit) for b in unit[:i]]
    assert potential_energy(feature) == pytest.approx(np.mean(pairs))


def test_cc_fv_is_the_sum_of_its_parts(sample):
    feature, label, patient = sample
    distances = [
        wasserstein(*(feature[(label == c) & (patient == p)] for p in (i, j)))
        for c in (1, 2)
        for i in range(4)
        for j in range(i)
    ]
    expected = np.log(1 / potential_energy(feature) / np.mean(distances))
    assert cc_fv([feature], label, patient) == pytest.approx(expected)
    assert cc_fv([feature, feature], label, patient) == pytest.approx(2 * expected)
    assert np.isnan(cc_fv([feature], label, np.arange(len(label)))), "no two pixels of a class in one patient"


def test_linear_cka_equals_its_definition_and_ignores_rotation(sample):
    feature, _, _ = sample
    rng = np.random.default_rng(2)
    other = np.tanh(feature @ rng.standard_normal((6, 4)))
    centre = np.eye(120) - 1 / 120
    k, m = (centre @ f @ f.T @ centre for f in (feature, other))
    assert linear_cka(feature, other) == pytest.approx((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))
    rotation = linalg.qr(rng.standard_normal((6, 6)))[0]
    assert linear_cka(feature, 3 * feature @ rotation + 1) == pytest.approx(1)
    assert np.isnan(linear_cka(feature, np.ones((120, 2))))


def test_scores_prefer_features_that_tell_the_classes(sample):
    feature, label, patient = sample
    rng = np.random.default_rng(3)
    useless = rng.permutation(feature)
    for score in (logme, h_score, gbc):
        assert score(feature, label) > score(useless, label), score.__name__
    apart = np.eye(6)[patient] * 20
    assert cc_fv([feature], label, patient) > cc_fv([feature + apart], label, patient)


def test_pixels_are_balanced_and_features_are_those_of_the_pixels(slices):
    evaluation = Evaluation(slices.split("train"), COMPUTE, 4)
    pixels = sample_pixels(evaluation, 80, 0)
    counts = np.bincount(pixels.patient * 4 + pixels.label)
    assert counts.tolist() == [10] * 8
    assert np.array_equal(slices.split("train").label[pixels[:3]], pixels.label)
    again = sample_pixels(evaluation, 80, 0)
    assert all(np.array_equal(a, b) for a, b in zip(pixels, again, strict=True))
    network = initialise("pspnet", ARGUMENTS["pspnet"], "shared", "none", "a-seg", 0).eval()
    into, out, own = features(network, evaluation, pixels, inputs=["final"], outputs=["final", "backbone.conv1"])
    with torch.no_grad():
        image = torch.from_numpy(slices.split("train").image).unsqueeze(1)
        whole = network(image)
        first = network.backbone.conv1(image)
    where = [torch.from_numpy(p) for p in pixels[:3]]
    expected = whole[where[0], :, where[1], where[2]].numpy()
    np.testing.assert_allclose(own, expected, atol=1e-5)
    np.testing.assert_allclose(out["final"], expected, atol=1e-5)
    np.testing.assert_allclose(out["backbone.conv1"], first[where[0], :, where[1] // 2, where[2] // 2], atol=1e-5)
    weight, bias = (t.detach().numpy() for t in (network.final.weight[:, :, 0, 0], network.final.bias))
    np.testing.assert_allclose(into["final"] @ weight.T + bias, expected, atol=1e-4)
    assert np.allclose(F.softmax(torch.from_numpy(own), 1).sum(1), 1)
