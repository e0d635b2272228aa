"""Phantoms: reproducible to the byte, of the right size, with the right contrast."""

import hashlib

import numpy as np
import pytest

from prrmse.data import acdc, t1
from prrmse.errors import InputError
from prrmse.phantom import generate


def digests(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("name", ["acdc", "rvsc", "t1"])
def test_same_seed_same_bytes_other_seed_other(name, cohorts, tmp_path):
    generate(name, tmp_path / "again", patients=4, seed=3)
    generate(name, tmp_path / "other", patients=4, seed=4)
    assert digests(tmp_path / "again") == digests(cohorts / name)
    assert digests(tmp_path / "other") != digests(cohorts / name)


def test_a_patient_does_not_depend_on_the_size_of_the_cohort(cohorts, tmp_path):
    generate("acdc", tmp_path / "small", patients=2, seed=3)
    small, large = digests(tmp_path / "small"), digests(cohorts / "acdc")
    assert all(large[k] == v for k, v in small.items() if k != "PHANTOM.md")


def test_acdc_sizes_and_contrast_are_in_the_measured_ranges(cohorts):
    diameters, ratios = [], []
    for volume in acdc.volumes(cohorts / "acdc"):
        middle = len(volume.image) // 2
        image, label = volume.image[middle], volume.label[middle]
        pixel = volume.spacing_mm[0] * volume.spacing_mm[1]
        ratios.append(np.median(image[label == 2]) / np.median(image[label == 3]))
        if volume.frame == "ED":
            diameters.append(2 * np.sqrt((label == 3).sum() * pixel / np.pi))
            assert 300 < (label == 1).sum() * pixel < 4500
        cavity = {v.frame: (v.label == 3).sum() for v in acdc.volumes(cohorts / "acdc") if v.patient == volume.patient}
        assert cavity["ES"] < cavity["ED"]
    assert all(34 < d < 75 for d in diameters)
    assert 0.28 < np.mean(ratios) < 0.61


def test_t1_contrast_flips_over_the_series(cohorts):
    signs = []
    for volume in t1.volumes(cohorts / "t1"):
        if volume.patient == "patient001":
            image, label = volume.image[2], volume.label[2]
            inner = np.zeros_like(label, bool)
            rows, columns = np.nonzero(label)
            r, c = int(rows.mean()), int(columns.mean())
            inner[r - 3 : r + 4, c - 3 : c + 4] = True
            signs.append(np.median(image[label == 1]) < np.median(image[inner & (label == 0)]))
    assert len(signs) == 11
    assert True in signs and False in signs, "blood is never darker, or never brighter, than myocardium"
    assert signs[-1], "without inversion blood is brighter"


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(InputError, match="known are acdc"):
        generate("ct", tmp_path / "x", patients=3, seed=0)
    with pytest.raises(InputError, match="2 or more"):
        generate("acdc", tmp_path / "x", patients=1, seed=0)
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="already exists"):
        generate("acdc", tmp_path / "x", patients=2, seed=0)
