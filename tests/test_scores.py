"""Every score against an independent computation of its definition, and against planted truth."""

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, initialise
from scipy import linalg, optimize, stats
from torch import nn

from prrmse.compare.features import features, sample_pixels
from prrmse.compare.scores import (
    cc_fv,
    cc_fv_code,
    gbc,
    gbc_code,
    gbc_diagonal,
    h_score,
    leep,
    linear_cka,
    logme,
    potential_energy,
    wasserstein,
)
from prrmse.experiments.transferability import Watch, feature_scores
from prrmse.learning.evaluate import Evaluation
from prrmse.tables.ranking import SCORES


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
    shrinkage = noise / distance
    assert 0 < shrinkage < 1
    covariance = (1 - shrinkage) * sample_covariance + shrinkage * level * np.eye(d)
    between = sum(np.outer(*(2 * [centred[label == c].mean(0)])) * (label == c).mean() for c in range(3))
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ between)
    assert h_score(feature, label) == pytest.approx(expected)
    # With numpy's covariance of the conditional means, as others compute it.
    other = np.cov(np.stack([centred[label == c].mean(0) for c in label]).T)
    theirs = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ other)
    assert theirs == pytest.approx(h_score(feature, label) * n / (n - 1))


def bhattacharyya(feature, label, variances_of, log_term):
    """GBC from the distance written out: for every ordered pair of classes, with these covariances."""
    total = 0.0
    for i in range(3):
        for j in range(3):
            if i != j:
                a, b = (feature[label == c] for c in (i, j))
                first, second = (np.diag(variances_of(x)) for x in (a, b))
                middle = (first + second) / 2
                delta = a.mean(0) - b.mean(0)
                total += np.exp(-delta @ np.linalg.inv(middle) @ delta / 8 - log_term(first, second, middle))
    return -total


def determinants(first, second, middle):
    return np.log(np.linalg.det(middle) / np.sqrt(np.linalg.det(first) * np.linalg.det(second))) / 2


def test_gbc_and_its_variants_equal_their_definitions(sample):
    feature, label, _ = sample
    feature = np.column_stack([feature * 0.3, np.where(label == 1, 0.0, feature[:, 0])])  # constant in one class
    each = lambda x: np.maximum(x.var(0), 1e-4)  # noqa: E731
    one = lambda x: np.full(x.shape[1], each(x).mean())  # noqa: E731
    scalar = lambda a, b, m: np.log(m[0, 0] / np.sqrt(a[0, 0] * b[0, 0])) / 2  # noqa: E731
    assert gbc(feature, label) == pytest.approx(bhattacharyya(feature, label, one, determinants), rel=1e-9)
    assert gbc_diagonal(feature, label) == pytest.approx(bhattacharyya(feature, label, each, determinants), rel=1e-9)
    assert gbc_code(feature, label) == pytest.approx(bhattacharyya(feature, label, one, scalar), rel=1e-9)
    found = [score(feature, label) for score in (gbc, gbc_diagonal, gbc_code)]
    assert len({round(value, 6) for value in found}) == 3, "three scores, not three names of one"


def distance_of_gaussians(a, b):
    covariances = [np.cov(x.T) for x in (a, b)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    return np.sqrt(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root))


def test_wasserstein_equals_its_definition(sample):
    feature, label, _ = sample
    a, b = feature[label == 0], feature[label == 1]
    assert wasserstein(a, b) == pytest.approx(distance_of_gaussians(a, b))
    assert wasserstein(a, a) == pytest.approx(0, abs=1e-6)


def inverse_distances(points):
    return [1 / np.linalg.norm(a - b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]


def on_sphere(points):
    return [x / np.linalg.norm(x) for x in points]


def test_potential_energy_equals_its_definition(sample):
    feature = sample[0][::7]
    assert potential_energy(feature) == pytest.approx(np.sum(inverse_distances(on_sphere(feature))))


def test_cc_fv_equals_the_equations_of_its_publication(sample):
    feature, label, patient = sample
    consistency = 0.0
    for c in (1, 2):
        for i in range(4):
            for j in range(4):
                if i != j:
                    a, b = (feature[(label == c) & (patient == p)] for p in (i, j))
                    consistency += distance_of_gaussians(a, b) / (4 * 3)
    variety = np.mean([1 / np.sum(inverse_distances(on_sphere(feature[patient == p]))) for p in range(4)])
    expected = np.log(variety / consistency)
    assert cc_fv([feature], label, patient) == pytest.approx(expected)
    other = np.log(variety / (2 * consistency))
    assert cc_fv([feature, 2 * feature], label, patient) == pytest.approx((expected + other) / 2), "mean over layers"
    assert np.isnan(cc_fv([feature], label, np.arange(len(label)))), "no two pixels of a class in one patient"


def test_cc_fv_as_coded_equals_the_loop_of_that_code(sample):
    feature, label, patient = sample
    total = 0.0
    for layer in (feature, feature**2):
        added = 0.0
        for c in (1, 2):
            for i in range(4):
                for j in range(i):
                    added += distance_of_gaussians(*(layer[(label == c) & (patient == p)] for p in (i, j)))
            added += added / (4 * 4 / 2) / 2
        means = [layer[patient == p].mean(0) for p in range(4)]
        energies = [
            1 / np.sqrt(np.sum((a - b) ** 2) + 1e-3) for i, a in enumerate(means) for j, b in enumerate(means) if i < j
        ]
        total += np.log(np.mean(energies) / added)
    assert cc_fv_code([feature, feature**2], label, patient) == pytest.approx(total)
    assert np.isnan(cc_fv_code([feature], label, np.arange(len(label))))


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
    for score in (logme, h_score, gbc, gbc_diagonal, gbc_code):
        assert score(feature, label) > score(useless, label), score.__name__
    apart = np.eye(6)[patient] * 20
    for score in (cc_fv, cc_fv_code):
        assert score([feature], label, patient) > score([feature + apart], label, patient), score.__name__


def test_pixels_are_balanced_and_features_are_those_of_the_pixels(slices):
    evaluation = Evaluation(slices.split("train"), COMPUTE, 4)
    pixels = sample_pixels(evaluation, 80, 0)
    counts = np.bincount(pixels.patient * 4 + pixels.label)
    assert counts.tolist() == [10] * 8
    assert np.array_equal(slices.split("train").label[pixels.where], pixels.label)
    again = sample_pixels(evaluation, 80, 0)
    assert np.array_equal(pixels.where, again.where)
    network = initialise("pspnet", ARGUMENTS["pspnet"], "shared", "none", "a-seg", 0).eval()
    into, out, own = features(network, evaluation, pixels, inputs=["final"], outputs=["final", "backbone.conv1"])
    with torch.no_grad():
        image = torch.from_numpy(slices.split("train").image).unsqueeze(1)
        whole = network(image)
        first = network.backbone.conv1(image)
    where = [torch.from_numpy(p) for p in pixels.where]
    expected = whole[where[0], :, where[1], where[2]].numpy()
    np.testing.assert_allclose(own, expected, atol=1e-5)
    np.testing.assert_allclose(out["final"], expected, atol=1e-5)
    np.testing.assert_allclose(out["backbone.conv1"], first[where[0], :, where[1] // 2, where[2] // 2], atol=1e-5)
    weight, bias = (t.detach().numpy() for t in (network.final.weight[:, :, 0, 0], network.final.bias))
    np.testing.assert_allclose(into["final"] @ weight.T + bias, expected, atol=1e-4)


def test_of_a_module_that_is_called_twice_the_last_call_counts_in_every_batch(slices):
    part = slices.split("train")
    pixels = sample_pixels(Evaluation(part, COMPUTE, 4), 80, 0)
    shared = nn.Conv2d(4, 4, 3, padding=1)
    network = nn.Sequential(nn.Conv2d(1, 4, 1), shared, nn.ReLU(), shared).eval()
    found = [
        features(network, Evaluation(part, COMPUTE.model_copy(update={"evaluation_batch_size": n}), 4), pixels,
                 outputs=["1"])
        for n in (2, len(part.image))
    ]  # fmt: skip
    for _, out, own in found:
        np.testing.assert_allclose(out["1"], own, atol=1e-6)
    np.testing.assert_allclose(found[0][2], found[1][2], atol=1e-6)


def test_a_source_is_scored_by_its_own_outputs_and_the_features_that_its_last_layers_read(slices):
    evaluation = Evaluation(slices.split("train"), COMPUTE, 4)
    pixels = sample_pixels(evaluation, 80, 0)
    network = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0).eval()
    found = feature_scores(network, evaluation, pixels, Watch(), has_classes=True)
    with torch.no_grad():
        logits = network(torch.from_numpy(slices.split("train").image).unsqueeze(1)).double()
    probability = np.stack([logits[i, :, y, x].softmax(0) for i, y, x in zip(*pixels.where, strict=True)])
    assert found["leep"] == pytest.approx(leep(np.log(probability), pixels.label), rel=1e-4)
    into, _, _ = features(network, evaluation, pixels, inputs=["outc"])
    for score in (logme, h_score, gbc, gbc_diagonal, gbc_code):
        assert found[score.__name__] == pytest.approx(score(into["outc"], pixels.label)), score.__name__
    assert set(found) <= set(SCORES)
    assert "leep" not in feature_scores(network, evaluation, pixels, Watch(), has_classes=False)
