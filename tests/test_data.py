"""Readers and processing, on phantoms in the distributed formats; every defect is one error."""

import gzip
import json
import re
import shutil
from contextlib import contextmanager

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
from cohorts import (
    BOTTOM,
    LEFT,
    RIGHT,
    SHAPE,
    TOP,
    picture,
    rectangle_volume,
    write_acdc_patient,
    write_decathlon,
    write_nifti,
    write_rvsc_patient,
    write_t1,
)

from prrmse.config.checks import check_data
from prrmse.config.params import PARAMETERS
from prrmse.data import acdc, nnunet, rvsc, t1
from prrmse.data.contour import fill_contour
from prrmse.data.prepare import check, prepare, raw_files, summary
from prrmse.data.process import Grid, middle_slices, normalise, resample
from prrmse.data.slices import load_slices, save_slices
from prrmse.data.split import split_patients
from prrmse.errors import InputError
from prrmse.settings import Dataset, ForeignNetwork, Networks, Params, Split, UNet, UNetArguments

RANDOM = {"kind": "random", "train": 0.5, "val": 0.5, "seed": 0}
SPLITS = {
    "acdc": {"kind": "random", "train": 2, "val": 2, "seed": 0},
    "rvsc": {"kind": "folder"},
    "t1": {"kind": "ordered", "train": 0.5, "val": 0.5},
}


def spec(root, name, **changes):
    base = {"format": name, "root": str(root), "provenance": "phantom", "spacing_mm": 2.0, "size": 64}
    split = Split(**changes.pop("split", SPLITS.get(name, RANDOM)))
    return Dataset(**{**base, "crop": "image", "split": split, **changes})


@contextmanager
def named_error(message):
    """One line that calls settings as params.yaml does."""
    with pytest.raises(InputError) as e:
        yield
    said = e.value.message_for(PARAMETERS)
    assert re.search(message, said), said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "slices", "frames", "classes"),
    [
        ("acdc", 4 * 2 * 6, {"ED", "ES"}, ["RV", "myocardium", "LV"]),
        ("rvsc", None, {"ED", "ES"}, ["RV", "RV wall"]),
        ("t1", 4 * 5 * 11, {f"TI{i:02d}" for i in range(1, 12)}, ["myocardium"]),
    ],
)
def test_each_format_is_read_whole(cohorts, name, slices, frames, classes):
    found = prepare(name, spec(cohorts / name, name))
    assert slices is None or len(found.image) == slices
    assert set(found.index["frame"]) == frames
    assert list(found.classes.values()) == classes
    assert found.image.dtype == np.float32
    assert found.label.dtype == np.uint8
    assert set(np.unique(found.label)) == {0, *found.classes}
    assert np.allclose(found.image.mean((1, 2)), 0, atol=1e-4)
    assert not set(found.patients("train")) & set(found.patients("val"))
    table = summary(found)
    assert table["patients"].tolist() == [2] * len(table)
    assert raw_files(name, cohorts / name)


def test_prepare_is_deterministic_and_survives_the_disk(cohorts, tmp_path):
    first, second = (prepare("acdc", spec(cohorts / "acdc", "acdc")) for _ in range(2))
    for i, slices in enumerate((first, second)):
        save_slices(slices, tmp_path / f"{i}.npz")
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()
    assert load_slices(tmp_path / "0.npz").fingerprint() == first.fingerprint()
    (tmp_path / "0.npz").write_bytes((tmp_path / "1.npz").read_bytes()[:-500])
    with named_error(r"0\.npz: truncated or not a complete"):
        load_slices(tmp_path / "0.npz")
    with named_error("no such file; it is a processed data set"):
        load_slices(tmp_path / "9.npz")


def test_acdc_newer_layout_and_choices(cohorts, tmp_path):
    shutil.copytree(cohorts / "acdc" / "training", tmp_path / "database" / "training")
    found = prepare("acdc", spec(tmp_path, "acdc", frames=("ED",), max_slices_per_volume=2, crop="label"))
    assert len(found.image) == 4 * 2
    assert set(found.index["slice"]) == {2, 3}


# ---- known geometry, from writers that share no code with the phantoms ---------------------------

INSIDE = (slice(TOP, BOTTOM + 1), slice(LEFT, RIGHT + 1))


def test_acdc_pixels_labels_and_spacing_are_where_they_were_written(tmp_path):
    for number in (1, 2):
        write_acdc_patient(tmp_path / f"patient{number:03d}")
    found = list(acdc.volumes(tmp_path))
    assert [(v.patient, v.frame) for v in found] == [(f"patient00{n}", f) for n in (1, 2) for f in ("ED", "ES")]
    image, label = rectangle_volume()
    for volume in found:
        assert np.array_equal(volume.image, image)
        assert np.array_equal(volume.label, label)
        assert volume.spacing_mm == (1.5, 1.25)
        assert volume.folder_split is None
    assert len(acdc.files(tmp_path)) == 2 * 5, "the 4D file is not read"


def test_acdc_testing_folder_is_test_if_labelled_and_never_drawn(tmp_path):
    root = tmp_path / "database"
    for number in range(1, 5):
        write_acdc_patient(root / "training" / f"patient{number:03d}")
    before = prepare("acdc", spec(tmp_path, "acdc", split=RANDOM))
    write_acdc_patient(root / "testing" / "patient101")
    write_acdc_patient(root / "testing" / "patient102", labels=False)
    volumes = list(acdc.volumes(tmp_path))
    assert [v.patient for v in volumes if v.folder_split == "test"] == ["patient101"] * 2
    after = prepare("acdc", spec(tmp_path, "acdc", split=RANDOM))
    assert after.index.equals(before.index), "the same patients, in the same parts"
    assert np.array_equal(after.image, before.image) and np.array_equal(after.label, before.label)
    assert after.meta["raw"] != before.meta["raw"], "the release has grown, and the record says so"
    # A file of patients takes both: one's own validation patients, and those that the release tests on.
    parts = {"train": ["patient001", "patient003"], "val": ["patient002", "patient004"], "test": ["patient101"]}
    rows = [f"{patient},{split}" for split, patients in parts.items() for patient in patients]
    (tmp_path / "split.csv").write_text("\n".join(["patient,split", *rows]))
    both = prepare("acdc", spec(tmp_path, "acdc", split={"kind": "file", "path": str(tmp_path / "split.csv")}))
    assert {split: both.patients(split) for split in parts} == parts


@pytest.mark.parametrize(("phases", "shape"), [(20, SHAPE), (None, SHAPE), (20, SHAPE[::-1])])
def test_rvsc_pixels_contours_and_phases(tmp_path, phases, shape):
    write_rvsc_patient(tmp_path / "TrainingSet", 1, shape=shape, phases=phases)
    write_rvsc_patient(tmp_path / "Test1Set", 17, contours=tmp_path / "Test1SetContours", phases=phases)
    write_rvsc_patient(tmp_path / "Test2Set", 33, phases=phases)
    shutil.rmtree(tmp_path / "Test2Set" / "patient33" / "P33contours-manual")
    found = {(v.patient, v.frame): v for v in rvsc.volumes(tmp_path)}
    assert sorted(found) == [(p, f) for p in ("patient01", "patient17") for f in ("ED", "ES")]
    first = found["patient01", "ED"]
    assert (first.slice_ids, found["patient01", "ES"].slice_ids) == ([4, 5], [4])
    assert (first.folder_split, found["patient17", "ED"].folder_split) == ("train", "val")
    assert first.spacing_mm == (1.5, 1.25)
    assert np.array_equal(first.image[0], np.rint(picture(shape)))
    expected = np.zeros(shape, np.uint8)
    expected[TOP - 2 : BOTTOM + 3, LEFT - 2 : RIGHT + 3] = 2
    expected[INSIDE] = 1
    assert np.array_equal(first.label, np.stack([expected, expected]))


def test_rvsc_two_frames_of_one_position_are_both_kept(tmp_path):
    write_rvsc_patient(tmp_path / "TrainingSet", 1, frames=(20, 22, 23))
    assert [(v.frame, v.slice_ids) for v in rvsc.volumes(tmp_path)] == [("ED", [1]), ("ES", [22, 23])]


def test_t1_ring_of_every_image(tmp_path):
    write_t1(tmp_path / "T1.mat", patients=2)
    found = list(t1.volumes(tmp_path))
    assert [v.frame for v in found[:11]] == [f"TI{t:02d}" for t in range(1, 12)]
    expected = np.zeros(SHAPE, np.uint8)
    expected[TOP - 2 : BOTTOM + 3, LEFT - 2 : RIGHT + 3] = 1
    expected[INSIDE] = 0
    for t, volume in enumerate(found[:11]):
        assert np.allclose(volume.image, picture(value=100 + t), atol=1e-4)
        assert np.array_equal(volume.label, np.stack([expected, expected]))
    assert [v.patient for v in found[::11]] == ["patient001", "patient002"]
    assert prepare("t1", spec(tmp_path / "T1.mat", "t1", split=RANDOM)).image.shape == (44, 64, 64)


def test_decathlon_names_and_labels(tmp_path):
    write_decathlon(tmp_path)
    assert nnunet.classes(tmp_path) == {1: "first", 2: "second", 3: "third"}
    volume = next(iter(nnunet.volumes(tmp_path)))
    image, label = rectangle_volume()
    assert np.array_equal(volume.image, image)
    assert np.array_equal(volume.label, label)
    write_nifti(tmp_path / "imagesTr" / "heart_000.nii.gz", image[..., None].repeat(2, -1)[0].transpose(2, 0, 1))
    refused(tmp_path, "nnunet", r"labelsTr.heart_000\.nii\.gz: shape .* and that of its image .*, differ", split=RANDOM)


def test_rectangle_ends_up_where_millimetres_say(tmp_path):
    """Native rows 1.5 mm, columns 1.25 mm; grid of 1 mm around the middle of 64 x 48 pixels."""
    for number in (1, 2):
        write_acdc_patient(tmp_path / f"patient{number:03d}")
    found = prepare("acdc", spec(tmp_path, "acdc", spacing_mm=1.0, size=96, split=RANDOM))
    rows, columns = np.nonzero(found.label[0])
    edges = (rows.min() - 0.5, rows.max() + 0.5, columns.min() - 0.5, columns.max() + 0.5)
    expected = [47.5 + (e - 31.5) * 1.5 for e in (TOP - 0.5, BOTTOM + 0.5)]
    expected += [47.5 + (e - 23.5) * 1.25 for e in (LEFT - 0.5, RIGHT + 0.5)]
    assert np.allclose(edges, expected, atol=0.51)
    inside = found.image[0][found.label[0] > 0].mean()
    assert inside > found.image[0][found.label[0] == 0].mean() + 2, "image and label moved apart"


# ---- contours -------------------------------------------------------------------------------------


def square(low, high):
    return np.array([[low, low], [high, low], [high, high], [low, high]], float)


def test_pixel_is_inside_iff_its_centre_is():
    assert fill_contour(square(1.5, 4.5), (8, 8)).sum() == 9
    assert fill_contour(square(1.6, 4.4), (8, 8)).sum() == 9
    assert fill_contour(square(1.6, 4.6) + [0.5, 0], (8, 8)).sum() == 9
    mask = fill_contour(np.array([[2.5, 0.5], [5.5, 0.5], [5.5, 2.5], [2.5, 2.5]]), (6, 8))
    assert np.argwhere(mask).tolist() == [[r, c] for r in (1, 2) for c in (3, 4, 5)], "x is the column, y the row"


def test_circle_has_its_area_wherever_it_lies():
    angle = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    for dx, dy in ((0, 0), (0.3, 0.7), (0.5, 0.5)):
        points = np.stack([30 + dx + 12 * np.cos(angle), 30 + dy + 12 * np.sin(angle)], 1)
        assert fill_contour(points, (60, 60)).sum() == pytest.approx(np.pi * 144, rel=0.03)


# ---- processing -----------------------------------------------------------------------------------


def test_resampling_keeps_places_and_areas_in_mm():
    label = np.zeros((1, 80, 120), np.uint8)
    label[0, 30:50, 40:80] = 2
    image, found = resample(label.astype(np.float32), label, (1.5, 1.0), Grid(2.0, 64, "image"))
    rows, columns = np.nonzero(found[0] == 2)
    assert (found == 2).sum() * 4 == pytest.approx(20 * 1.5 * 40, rel=0.08)
    assert abs(rows.mean() - 31.5) <= 0.5
    assert abs(columns.mean() - 31.5) <= 0.5
    assert image.shape == found.shape == (1, 64, 64)
    same_image, same = resample(label.astype(np.float32), label, (1.0, 1.0), Grid(1.0, 80, "label"))
    assert (same == 2).sum() == 800
    assert np.array_equal(same_image.round().astype(np.uint8), same)


def test_normalise_clips_scales_and_survives_a_constant_slice():
    image = np.random.default_rng(0).normal(100, 20, (2, 50, 50)).astype(np.float32)
    image[0, 0, 0], image[1] = 1e6, 7
    found = normalise(image)
    assert found[0].max() < 4
    assert found[0].std() == pytest.approx(1, abs=1e-4)
    assert not found[1].any()


def test_middle_slices():
    assert list(range(10))[middle_slices(10, 4)] == [3, 4, 5, 6]
    assert middle_slices(3, None) == middle_slices(3, 5) == slice(0, 3)


# ---- splits ---------------------------------------------------------------------------------------

PATIENTS = {f"p{i}": None for i in range(10)}


def test_splits_by_count_fraction_order_and_seed():
    ordered = split_patients("d", Split(**{"kind": "ordered", "train": 6, "val": 3}), PATIENTS)
    assert [p for p, s in ordered.items() if s == "train"] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert [p for p, s in ordered.items() if s == "val"] == ["p7", "p8", "p9"]
    draw = {"kind": "random", "train": 0.5, "val": 0.3, "test": 0.2, "seed": 1}
    first = split_patients("d", Split(**draw), PATIENTS)
    assert first == split_patients("d", Split(**draw), PATIENTS)
    assert first != split_patients("d", Split(**{**draw, "seed": 2}), PATIENTS)
    assert sorted(first.values()) == ["test"] * 2 + ["train"] * 5 + ["val"] * 3


@pytest.mark.parametrize("n", [3, 5, 7, 35])
def test_two_halves_of_an_odd_number_fit(n):
    found = split_patients("d", Split(**RANDOM), {f"p{i}": None for i in range(n)})
    assert len(found) == n
    assert abs(list(found.values()).count("train") - n / 2) < 1


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"kind": "random", "train": 8, "val": 4}, "asks for train 8, val 4, but there are 10"),
        ({"kind": "random", "train": 8}, "no patient is in val"),
        ({"kind": "random", "train": 2.5, "val": 2}, "neither a fraction"),
        ({"kind": "random", "train": 0.01, "val": 2}, "train: no patient is in train; found 10"),
        ({"kind": "folder"}, "no patient is in train"),
        ({"kind": "file", "path": "nowhere.csv"}, "no such file"),
    ],
)
def test_bad_splits_name_the_key(split, message):
    with named_error(rf"datasets\.d\.split.*{message}"):
        split_patients("d", Split(**split), PATIENTS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,split\np0,train\np0,val\n", "p0 is listed twice"),
        ("patient,split\np99,train\n", "p99 is not in the data set"),
        ("patient,split\np0,dev\n", "known splits"),
        ("who\np0\n", "needs the columns"),
        ("", "not a CSV"),
    ],
)
def test_bad_split_files(text, message, tmp_path):
    (tmp_path / "s.csv").write_text(text)
    with named_error(message):
        split_patients("d", Split(**{"kind": "file", "path": str(tmp_path / "s.csv")}), PATIENTS)


# ---- defects: each is one line that names the file ------------------------------------------------


def refused(root, name, message, **changes):
    with named_error(message):
        prepare(name, spec(root, name, **changes))


@pytest.fixture
def copy(cohorts, tmp_path):
    def of(name):
        shutil.copytree(cohorts / name, tmp_path / name)
        return tmp_path / name

    return of


def nifti(root, suffix=""):
    folder = root / "training" / "patient002"
    return folder / f"patient002_frame01{suffix}.nii.gz"


def rewrite(path, change):
    file = nib.load(path)
    voxels = change(np.asanyarray(file.dataobj).copy())
    nib.save(nib.Nifti1Image(voxels, file.affine), path)


def test_absent_and_empty_roots(tmp_path):
    for name, source in (("acdc", "humanheart"), ("rvsc", "litislab"), ("t1", "DHEUAV")):
        with named_error(rf"datasets\.{name}\.root: .*{source}"):
            check(name, spec(tmp_path / "nowhere", name))
        with named_error("holds no"):
            check(name, spec(tmp_path, name))
        assert raw_files(name, tmp_path / "nowhere") == []
        assert raw_files(name, tmp_path) == []
    assert raw_files("nnunet", tmp_path / "nowhere") == []


def test_frames_that_do_not_exist_are_named(cohorts):
    refused(
        cohorts / "acdc", "acdc", r"datasets\.acdc\.frames: EX not in the data set; choose from ED, ES", frames=("EX",)
    )


def test_too_little_memory_is_not_a_fault_of_the_files(cohorts, monkeypatch):
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("prrmse.data.prepare.resample", exhausted)
    with pytest.raises(MemoryError):
        prepare("acdc", spec(cohorts / "acdc", "acdc"))


def test_too_many_patients_wanted_names_the_key(cohorts):
    split = {"kind": "random", "train": 50, "val": 50, "seed": 0}
    refused(
        cohorts / "acdc", "acdc", r"datasets\.acdc\.split\.train: .* train 50, val 50, but there are 4", split=split
    )


def test_acdc_missing_file(copy):
    root = copy("acdc")
    nifti(root).unlink()
    refused(root, "acdc", r"patient002_frame01\.nii\.gz: no such file")


def test_acdc_truncated_file(copy):
    root = copy("acdc")
    path = nifti(root)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(root, "acdc", r"patient002_frame01\.nii\.gz: truncated or not NIfTI")


def test_acdc_one_flipped_bit(tmp_path):
    """nibabel alone reads such a file without a word: it stops before the checksum."""
    folder = tmp_path / "patient001"
    write_acdc_patient(folder)
    path = folder / "patient001_frame12.nii.gz"
    voxels = bytearray(gzip.decompress(path.read_bytes()))
    packed = gzip.compress(bytes(voxels))
    voxels[-5] ^= 1
    path.write_bytes(gzip.compress(bytes(voxels))[:-8] + packed[-8:])
    refused(tmp_path, "acdc", r"patient001_frame12\.nii\.gz: truncated or not NIfTI \(CRC")


def test_acdc_truncated_after_decompression(copy):
    root = copy("acdc")
    path = nifti(root)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:5000]))
    refused(root, "acdc", r"patient002_frame01\.nii\.gz: truncated or not NIfTI")


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        ("_gt", lambda v: np.where(v == 3, 5, v).astype(np.uint8), r"frame01_gt\.nii\.gz: unknown labels \[5\]"),
        ("", lambda v: np.where(v == v.max(), np.inf, v).astype(np.float32), "NaN or infinite"),
        ("", lambda v: v.astype(np.complex64), "plain numbers"),
        ("_gt", lambda v: v + np.float32(0.5), "labels must be whole numbers"),
        ("_gt", lambda v: v[:, :, :-1], "shape .* differ"),
        ("", lambda v: np.where(v == v.max(), np.nan, v).astype(np.float32), "NaN or infinite"),
        (
            "",
            lambda v: v[..., None, None].repeat(2, 3).astype(np.int16),
            "its header says .* x 2 x 3 pixels, expected|expected 3 dim",
        ),
    ],
)
def test_acdc_bad_content(copy, suffix, change, message):
    root = copy("acdc")
    rewrite(nifti(root, suffix), change)
    refused(root, "acdc", message)


def test_acdc_bad_info(copy):
    root = copy("acdc")
    info = root / "training" / "patient003" / "Info.cfg"
    info.write_text("Group: NOR\n")
    refused(root, "acdc", r"patient003.Info\.cfg: must hold")
    info.unlink()
    refused(root, "acdc", r"patient003.Info\.cfg: no such file")


def rvsc_files(root):
    folder = root / "TrainingSet" / "patient01"
    image = sorted((folder / "P01dicom").iterdir())[0]
    return folder, image, folder / "P01contours-manual" / f"{image.stem}-icontour-manual.txt"


def test_rvsc_dicom_without_pixels_and_truncated(copy):
    root = copy("rvsc")
    _, image, _ = rvsc_files(root)
    whole = image.read_bytes()
    file = pydicom.dcmread(image)
    del file.PixelData
    file.save_as(image)
    refused(root, "rvsc", rf"{image.name}: DICOM without pixel data")
    image.write_bytes(whole[:-4000])
    refused(root, "rvsc", rf"{image.name}: truncated or not DICOM")
    image.unlink()
    refused(root, "rvsc", rf"{image.name}: no such file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("500 20\n510 20\n510 30\n", "outside its image"),
        ("10 20\n30 40\n", "3 or more points"),
        ("10 20\nnan 40\n10 50\n", "NaN"),
        ("ten twenty\n", "not a contour"),
        ("10 20\n30\n40 50\n", "not a contour"),
        ("", "3 or more points"),
    ],
)
def test_rvsc_bad_contours(copy, text, message):
    root = copy("rvsc")
    _, _, contour = rvsc_files(root)
    contour.write_text(text)
    refused(root, "rvsc", rf"{contour.name}: .*{message}")


def test_rvsc_list_that_names_an_absent_contour(copy):
    root = copy("rvsc")
    folder, _, contour = rvsc_files(root)
    contour.unlink()
    refused(root, "rvsc", rf"P01list\.txt: names the contour {contour.name}")
    (folder / "P01list.txt").write_text("something else\r\n")
    refused(root, "rvsc", "cannot read the line")
    (folder / "P01list.txt").unlink()
    refused(root, "rvsc", r"P01list\.txt: no such file")


def test_rvsc_training_patient_without_contours_is_not_skipped(copy):
    root = copy("rvsc")
    _, _, contour = rvsc_files(root)
    shutil.rmtree(contour.parent)
    refused(root, "rvsc", r"P01list\.txt: names the contour")


def test_rvsc_patient_in_two_splits(copy):
    root = copy("rvsc")
    shutil.copytree(root / "TrainingSet" / "patient01", root / "Test1Set" / "patient01")
    refused(root, "rvsc", "patient01 is in two splits")


def test_t1_defects(copy):
    root = copy("t1")
    path = root / "T1Dataset.mat"
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        del file["Dataset/EpiContours"]
    refused(root, "t1", "has no field EpiContours")
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file[file["Dataset/TriggerTime"][0, 1]]
        name = h5py.h5r.get_name(file["Dataset/TriggerTime"][0, 1], file.id)
        del file[name]
        file[name] = np.zeros((2, 2))
        references = file["Dataset/TriggerTime"][:]
        references[0, 1] = file[name].ref
        file["Dataset/TriggerTime"][:] = references
    refused(root, "t1", "patient 2: sizes do not agree")
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        references = file["Dataset/Img"][:]
        file["flat"] = np.zeros((5, 11, 160))
        references[0, 0] = file["flat"].ref
        file["Dataset/Img"][:] = references
    refused(root, "t1", "patient 1: sizes do not agree")
    path.write_bytes(whole[: len(whole) // 2])
    refused(root, "t1", "truncated")
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(1000))
    refused(root, "t1", "-v7.3")
    (root / "second.mat").write_bytes(whole)
    refused(root, "t1", "holds 2 .mat files")


def test_t1_contour_outside(copy):
    root = copy("t1")
    with h5py.File(root / "T1Dataset.mat", "r+") as file:
        file[file["Dataset/EpiContours"][0, 2]][0, 0, 0, :] += 500
    refused(root, "t1", "patient 3, image 1, slice 1, EpiContours: the contour reaches")


# ---- your own data --------------------------------------------------------------------------------


@pytest.fixture
def own(cohorts, tmp_path):
    """ACDC's volumes in nnU-Net's layout."""
    root = tmp_path / "own"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for label in sorted((cohorts / "acdc").rglob("*_gt.nii.gz")):
        case = label.name.removesuffix("_gt.nii.gz")
        shutil.copy(label, root / "labelsTr" / f"{case}.nii.gz")
        shutil.copy(label.with_name(f"{case}.nii.gz"), root / "imagesTr" / f"{case}_0000.nii.gz")
    labels = {"background": 0, "RV": 1, "myocardium": 2, "LV": 3}
    (root / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MR"}, "labels": labels}))
    return root


def test_nnunet_layout_gives_the_same_pixels_as_the_native_reader(own, cohorts):
    found = prepare("own", spec(own, "nnunet", split={"kind": "random", "train": 0.5, "val": 0.5}))
    native = prepare("acdc", spec(cohorts / "acdc", "acdc"))
    assert found.classes == native.classes
    assert np.array_equal(found.image, native.image)
    assert np.array_equal(found.label, native.label)


def test_nnunet_cases_of_one_patient_stay_together(own, cohorts):
    """Two frames of a patient must not end in two splits; and all tables are those of the native reader."""
    pattern = r"(?P<patient>patient\d+)_(?P<frame>frame\d+)"
    split = {"kind": "random", "train": 2, "val": 2, "seed": 0}
    found = prepare("acdc", spec(own, "nnunet", split=split, case_pattern=pattern))
    native = prepare("acdc", spec(cohorts / "acdc", "acdc", split=split))
    columns = ["patient", "slice", "split"]
    assert found.index[columns].equals(native.index[columns])
    assert found.index.groupby("patient")["split"].nunique().max() == 1
    assert found.index.groupby("patient")["frame"].nunique().min() == 2
    assert np.array_equal(found.image, native.image)
    assert summary(found).equals(summary(native))
    for bad, message in (("(", "is no regular expression"), (r"(?P<frame>\d+)", "finds no group `patient`")):
        with named_error("datasets.own.case_pattern: .*" + message):
            check("own", spec(own, "nnunet", split=split, case_pattern=bad))
    with named_error("are both frame 1 of patient patient001"):
        prepare("own", spec(own, "nnunet", split=split, case_pattern=r"(?P<patient>patient\d+)"))


def with_second_channel(root):
    """A second channel: the first one's negative."""
    for path in sorted((root / "imagesTr").iterdir()):
        image = nib.load(path)
        other = nib.Nifti1Image(-np.asanyarray(image.dataobj), image.affine)
        nib.save(other, str(path).replace("_0000", "_0001"))
    info = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**info, "channel_names": {"0": "MR", "1": "negative"}}))


def test_nnunet_with_two_channels(own, tmp_path):
    split = {"kind": "random", "train": 0.5, "val": 0.5}
    one = prepare("own", spec(own, "nnunet", split=split))
    with_second_channel(own)
    two = prepare("own", spec(own, "nnunet", split=split))
    assert two.image.shape == (len(one.image), 2, *one.image.shape[1:])
    assert np.array_equal(two.image[:, 0], one.image)
    inside = two.label > 0
    assert np.corrcoef(two.image[:, 0][inside], two.image[:, 1][inside])[0, 1] < -0.95
    assert np.array_equal(two.label, one.label)
    save_slices(two, tmp_path / "two.npz")
    again = load_slices(tmp_path / "two.npz")
    assert again.fingerprint() == two.fingerprint()
    assert again.split("val").stacked.shape[1] == 2
    decathlon = tmp_path / "decathlon"
    shutil.copytree(own / "labelsTr", decathlon / "labelsTr")
    (decathlon / "imagesTr").mkdir()
    for path in sorted((own / "imagesTr").glob("*_0000.nii.gz")):
        parts = [nib.load(str(path).replace("_0000", f"_000{i}")) for i in range(2)]
        whole = nib.Nifti1Image(np.stack([np.asanyarray(p.dataobj) for p in parts], axis=-1), parts[0].affine)
        whole.header.set_zooms((*parts[0].header.get_zooms()[:3], 1))
        nib.save(whole, decathlon / "imagesTr" / path.name.replace("_0000", ""))
    info = {"modality": {"0": "MR", "1": "negative"}, "labels": {"0": "background", "1": "RV", "2": "myo", "3": "LV"}}
    (decathlon / "dataset.json").write_text(json.dumps(info))
    assert np.array_equal(prepare("own", spec(decathlon, "nnunet", split=split)).image, two.image)


def test_channels_that_do_not_fit_are_refused(own):
    split = {"kind": "random", "train": 0.5, "val": 0.5}
    with_second_channel(own)

    def check_unet(**arguments):
        mine = ForeignNetwork(factory="a:b", in_channels=2, out_channels=5)
        nets = Networks(unet=UNet(arguments=UNetArguments(**arguments)), mine=mine)
        check_data(Params.model_construct(datasets={"heart": spec(own, "nnunet", split=split)}, nets=nets))

    with named_error(r"nets\.unet: takes 1 image channels, datasets\.heart has 2; set .*arguments"):
        check_unet(in_channels=1)
    with named_error(r"puts out 3 classes, datasets\.heart has 4 .*set nets\.unet\.arguments\.out_"):
        check_unet(in_channels=2, out_channels=3)
    check_unet(in_channels=2, out_channels=4)
    path = sorted((own / "imagesTr").glob("*_0001.nii.gz"))[1]
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[:-1], image.affine), path)
    refused(own, "nnunet", r"_0001\.nii\.gz: shape .* differ; resample both to one grid", split=split)
    path.unlink()
    refused(own, "nnunet", r"has no image; add .*_0001\.nii\.gz", split=split)


def test_nnunet_defects(own):
    split = {"kind": "random", "train": 0.5, "val": 0.5}
    whole = (own / "dataset.json").read_text()
    labels = {"background": 0, "all": [1, 2]}
    (own / "dataset.json").write_text(json.dumps({"channel_names": {"0": "a"}, "labels": labels}))
    refused(own, "nnunet", "turn regions into labels", split=split)
    (own / "dataset.json").write_text(whole)
    next((own / "imagesTr").iterdir()).unlink()
    refused(own, "nnunet", "has no image", split=split)
    (own / "dataset.json").write_text(json.dumps({"channel_names": 2, "labels": {"a": 1}}))
    refused(own, "nnunet", "channel_names must name the image channels", split=split)
    (own / "dataset.json").write_text(json.dumps({"file_ending": ".nrrd", "labels": {"a": 1}}))
    refused(own, "nnunet", r"labelsTr: holds no \*\.nrrd|SimpleITK", split=split)
    (own / "dataset.json").write_text("[]")
    refused(own, "nnunet", "needs an object `labels`", split=split)
    (own / "dataset.json").write_text("{")
    refused(own, "nnunet", "not valid JSON", split=split)
    (own / "dataset.json").unlink()
    refused(own, "nnunet", r"dataset\.json: no such file", split=split)
