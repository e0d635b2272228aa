"""Phantoms: reproducible to the byte, of the right size, with the right contrast, in the official formats."""

import hashlib
import re

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
from skimage.draw import polygon2mask

from prrmse.errors import InputError
from prrmse.phantom.cohort import generate

CONTOUR = "{n}-{f}-{k}contour-manual.txt"


def digests(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def acdc(tmp_path_factory):
    """One patient of each group, twice."""
    root = tmp_path_factory.mktemp("phantom") / "acdc"
    generate("acdc", root, patients=10, seed=5)
    return root


def read_acdc(root):
    """(group, phase) -> list of (image, label, spacing), axes Z, rows, columns."""
    found = {}
    for folder in sorted((root / "training").iterdir()):
        info = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
        assert set(info) == {"ED", "ES", "Group", "Height", "NbFrame", "Weight"}
        for phase in ("ED", "ES"):
            stem = folder / f"{folder.name}_frame{int(info[phase]):02d}"
            image, label = nib.load(f"{stem}.nii.gz"), nib.load(f"{stem}_gt.nii.gz")
            assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
            sx, sy, sz = (float(v) for v in image.header.get_zooms())
            assert np.allclose(image.affine, np.diag([-sx, -sy, sz, 1]))
            assert (image.header["qform_code"], image.header["sform_code"]) == (1, 0)
            arrays = [np.asarray(file.dataobj).T for file in (image, label)]
            found.setdefault((info["Group"], phase), []).append((*arrays, (sx, sy, sz)))
    return found


def closed(points, shape):
    """Mask of contour points (column, row)."""
    return polygon2mask(shape, np.asarray(points)[:, ::-1])


@pytest.mark.parametrize("name", ["acdc", "rvsc", "t1"])
def test_same_seed_same_bytes_other_seed_other(name, cohorts, tmp_path):
    generate(name, tmp_path / "again", patients=4, seed=3)
    generate(name, tmp_path / "other", patients=4, seed=4)
    assert digests(tmp_path / "again") == digests(cohorts / name)
    assert digests(tmp_path / "other") != digests(cohorts / name)
    assert not list(tmp_path.glob("*.partial"))


def test_a_patient_does_not_depend_on_the_size_of_the_cohort(cohorts, tmp_path):
    for name in ("acdc", "rvsc"):
        generate(name, tmp_path / name, patients=2, seed=3)
        small, large = digests(tmp_path / name), digests(cohorts / name)
        same = re.compile(r"training|TrainingSet/patient01/")
        assert all(large[k] == v for k, v in small.items() if same.match(k))
    generate("t1", tmp_path / "t1", patients=2, seed=3)
    with h5py.File(tmp_path / "t1/T1Dataset.mat") as small, h5py.File(cohorts / "t1/T1Dataset.mat") as large:
        for field in small["Dataset"]:
            for p in range(2):
                assert np.array_equal(*(f[f["Dataset"][field][0, p]][()] for f in (small, large)))


def test_acdc_sizes_and_contrast_are_in_the_measured_ranges(acdc):
    ratios, walls = [], {"ED": [], "ES": []}
    for (_, phase), volumes in read_acdc(acdc).items():
        for image, label, (sx, sy, _) in volumes:
            middle, area = len(label) // 2, sx * sy
            lv, epi = ((label[middle] >= c).sum() * area for c in (3, 2))
            diameter = 2 * np.sqrt(lv / np.pi)
            walls[phase].append(np.sqrt(epi / np.pi) - diameter / 2)
            ratios.append(np.median(image[label == 2]) / np.median(image[label == 3]))
            assert 150 < (label[middle] == 1).sum() * area < 4800
            assert (32 if phase == "ED" else 12) < diameter < 85
            assert epi > (label[-1] >= 2).sum() * area > 0, "the heart tapers towards the apex"
    assert 0.28 < np.mean(ratios) < 0.5
    assert 5 < np.mean(walls["ED"]) < 11
    assert np.mean(walls["ES"]) > 1.2 * np.mean(walls["ED"]), "the wall thickens"


def test_groups_differ_as_their_diagnoses_say(acdc):
    volumes = read_acdc(acdc)

    def mean_ml(group, phase, label):
        return np.mean([(v == label).sum() * np.prod(s) / 1000 for _, v, s in volumes[group, phase]])

    fraction = {g: 1 - mean_ml(g, "ES", 3) / mean_ml(g, "ED", 3) for g in ("NOR", "DCM", "HCM", "MINF", "RV")}
    assert fraction["NOR"] > 0.5 > 0.4 > max(fraction["DCM"], fraction["MINF"])
    assert mean_ml("DCM", "ED", 3) > 1.3 * mean_ml("NOR", "ED", 3)
    assert mean_ml("HCM", "ED", 2) > 1.2 * mean_ml("NOR", "ED", 2)
    assert mean_ml("RV", "ED", 1) > 1.2 * mean_ml("NOR", "ED", 1)


def test_rvsc_is_laid_out_as_the_release(cohorts):
    root, areas, shapes = cohorts / "rvsc", [], set()
    assert sorted(p.name for p in root.iterdir()) == ["PHANTOM.md", "Test1Set", "Test1SetContours", "TrainingSet"]
    for number in range(1, 5):
        name, part = f"P{number:02d}", "TrainingSet" if number <= 2 else "Test1Set"
        folder = root / part / f"patient{number:02d}"
        contours = folder if number <= 2 else root / "Test1SetContours"
        raw = (folder / f"{name}list.txt").read_bytes()
        lines = raw.decode().split("\r\n")[:-1]
        assert raw.count(b"\n") == len(lines)
        for inner, outer in zip(lines[::2], lines[1::2], strict=True):
            frame = inner.split("-")[-3]
            kinds = [CONTOUR.format(n=name, f=frame, k=k) for k in "io"]
            assert [inner, outer] == [f".\\{folder.name}\\{name}contours-manual\\{kind}" for kind in kinds]
            file = pydicom.dcmread(folder / f"{name}dicom/{name}-{frame}.dcm")
            image = file.pixel_array
            points = [np.loadtxt(contours / f"{name}contours-manual" / kind) for kind in kinds]
            cavity, whole = (closed(p, image.shape) for p in points)
            assert all((p.min() >= 0) and (p.max(0) <= np.subtract(image.shape[::-1], 1)).all() for p in points)
            assert (cavity & ~whole).sum() == 0
            assert 0 < cavity.sum() < whole.sum()
            areas.append(cavity.sum() * float(file.PixelSpacing[0]) ** 2)
            shapes.add(image.shape)
            # ED is the first phase.
            assert int(frame) % 20 in (0, 7, 8, 9)
    assert shapes <= {(128, 108), (108, 128)}
    assert 600 < np.median(areas) < 2600
    assert max(areas) < 6500


def test_rvsc_mixes_landscape_and_portrait(tmp_path):
    for share, shape in ((0.0, (128, 108)), (1.0, (108, 128))):
        generate("rvsc", tmp_path / str(share), patients=2, seed=0, slices=2, landscape=share)
        files = list((tmp_path / str(share)).rglob("*.dcm"))
        assert {pydicom.dcmread(f).pixel_array.shape for f in files} == {shape}
        assert len({pydicom.dcmread(f).SOPInstanceUID for f in files}) == len(files)


def test_t1_file_is_matlab_and_its_contrast_flips(cohorts):
    path = cohorts / "t1/T1Dataset.mat"
    assert path.read_bytes()[:19] == b"MATLAB 7.3 MAT-file"
    assert path.read_bytes()[124:128] == b"\x00\x02IM"
    ratios, centres = [], []
    with h5py.File(path) as file:
        struct = file["Dataset"]
        assert (file.userblock_size, struct.attrs["MATLAB_class"]) == (512, b"struct")
        for p in range(4):
            image, epi, endo, times = (
                file[struct[f][0, p]][()] for f in ("Img", "EpiContours", "EndoContours", "TriggerTime")
            )
            assert (image.shape, epi.shape, times.shape) == ((5, 11, 140, 140), (5, 11, 2, 60), (5, 11))
            assert file[struct["SliceLocation"][0, p]].shape == (5, 1)
            assert (np.diff(times) > 0).all() and (times[:, -1] == 10000).all()
            assert (image == np.rint(image)).all()
            blood = np.stack([[closed(c.T, (140, 140)) for c in row] for row in endo])
            wall = np.stack([[closed(c.T, (140, 140)) for c in row] for row in epi]) & ~blood
            shown = image.transpose(0, 1, 3, 2)
            ratios.append([np.median(shown[:, t][wall[:, t]]) / np.median(shown[:, t][blood[:, t]]) for t in range(11)])
            centres.append(epi.mean(-1).std(1).mean() * 1.2)
    mean = np.mean(ratios, 0)
    assert mean[0] < 0.85, "shortly after inversion blood is further from its null"
    assert mean[2:4].max() > 1.02, "near the null of blood the wall is the brighter"
    assert 0.5 < mean[-1] < 0.75, "without inversion blood is brighter"
    assert 0.8 < np.mean(centres) < 3, "the contours move with the heart, mm"


def test_contours_follow_the_moving_heart(tmp_path):
    """Without noise, the edge of the cavity lies on the contour in every image, however much it moves."""
    generate("t1", tmp_path / "t1", patients=2, seed=1, motion_mm=4.0, snr=900)
    with h5py.File(tmp_path / "t1/T1Dataset.mat") as file:
        image, endo = (file[file["Dataset"][f][0, 0]][()] for f in ("Img", "EndoContours"))
    contrast = []
    for points, shown in zip(endo[1], image[1].transpose(0, 2, 1), strict=True):
        centre = points.mean(1, keepdims=True)
        inner, outer = (centre + (points - centre) * s for s in (0.6, 1.18))
        inside, outside = (np.median(shown[tuple(np.rint(p[::-1]).astype(int))]) for p in (inner, outer))
        contrast.append(np.log(inside / outside))
    assert np.abs(contrast[-4:]).min() > 0.15
    assert np.std(contrast[-3:]) < 0.1


def test_options_change_what_they_name(tmp_path):
    generate("acdc", tmp_path / "a", patients=2, seed=0, slices=3, matrix=[112, 120], myocardium_to_blood=0.7)
    (image, label, _), *_ = read_acdc(tmp_path / "a")["DCM", "ED"]
    assert image.shape == (3, 112, 120)
    assert np.median(image[label == 2]) / np.median(image[label == 3]) > 0.45
    note = (tmp_path / "a/PHANTOM.md").read_text()
    assert "not patient data" in note and "seed 0" in note and "- slices: 3" in note


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "ct"}, "known are acdc"),
        ({"patients": 1}, "2 or more"),
        ({"patients": 2.0}, "2 or more"),
        ({"dataset": "rvsc", "patients": 100}, "up to 99"),
        ({"seed": -1}, "whole number from 0"),
        ({"slice": 3}, "'slice' is unknown; known are matrix, slices"),
        ({"slices": 1}, "slices: 1; give a whole number from 2 to 40"),
        ({"slices": 2.5}, "whole number"),
        ({"noise": float("nan")}, "noise: nan"),
        ({"matrix": (64, 128)}, "each 96 to 512"),
        ({"matrix": 128}, "give \\[rows, columns\\]"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        generate(**{"dataset": "acdc", "root": tmp_path / "x", "patients": 2, "seed": 0, **arguments})
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="already exists"):
        generate("acdc", tmp_path / "x", patients=2, seed=0)
    assert not list((tmp_path / "x").iterdir())
