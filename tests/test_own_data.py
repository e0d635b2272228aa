"""The layout of nnU-Net as people fill it: formats, labels, geometry, names; against nnU-Net's own readers."""

from __future__ import annotations

import json
import logging
import os
import sys

import nibabel as nib
import numpy as np
import pytest
from cohorts import write_acdc_patient, write_decathlon
from damage import LABELS, small, write_image, write_nnunet
from PIL import Image

from prrmse.data import acdc, nnunet
from prrmse.data.patients import patients_of
from prrmse.data.prepare import check, prepare
from prrmse.data.slices import IGNORE, load_slices, save_slices
from prrmse.errors import InputError
from prrmse.settings import HALVES, Dataset

VOLUMES = (".nii.gz", ".nii", ".mha", ".nrrd", ".tif", ".tiff")
PICTURES = (".png", ".bmp")


def spec(root, **changes):
    base = {"format": "nnunet", "root": str(root), "provenance": "phantom", "spacing_mm": 1.0, "size": 16}
    return Dataset(**{**base, "split": HALVES, **changes})


def refused(root, message, **changes):
    with pytest.raises(InputError, match=message) as e:
        prepare("own", spec(root, **changes))
    assert "\n" not in str(e.value)


def describe(root, **info):
    found = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**found, **info}))


# ---- formats --------------------------------------------------------------------------------------


def nnunet_reads(root, ending, images):
    """Image and spacing as nnU-Net itself has them: channels, slices, rows, columns."""
    registry = pytest.importorskip("nnunetv2.imageio.reader_writer_registry")
    info = json.loads((root / "dataset.json").read_text())
    kind = registry.determine_reader_writer_from_dataset_json(info, images[0], verbose=False)
    pixels, properties = kind().read_images(images)
    return pixels, properties["spacing"], kind().read_seg(str(root / "labelsTr" / f"p1{ending}"))[0]


@pytest.mark.parametrize("ending", VOLUMES + PICTURES)
def test_every_ending_is_read_as_nnunet_reads_it(tmp_path, ending):
    root = write_nnunet(tmp_path, ending)
    if ending.startswith(".tif"):
        for folder in ("imagesTr", "labelsTr"):
            (root / folder / "p1.json").write_text('{"spacing": [10.0, 1.5, 1.25]}')
    volume = next(iter(nnunet.volumes(root)))
    image, label = (array if ending in VOLUMES else array[:1] for array in small())
    assert np.array_equal(volume.image, image) and np.array_equal(volume.label, label)
    assert volume.spacing_mm == ((1.5, 1.25) if ending in VOLUMES else (1.0, 1.0))
    pixels, spacing, seg = nnunet_reads(root, ending, [str(root / "imagesTr" / f"p1_0000{ending}")])
    assert np.array_equal(volume.image, pixels[0]) and np.array_equal(volume.label, seg[0])
    assert np.allclose(volume.spacing_mm, spacing[1:])
    assert set(nnunet.files(root)) == {p for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_colours_are_channels(tmp_path, ending):
    colours = np.random.default_rng(0).integers(0, 255, (12, 10, 3)).astype(np.uint8)
    root = write_nnunet(tmp_path, ending, channel_names={"0": "R", "1": "G", "2": "B"})
    for case in ("p1", "p2"):
        Image.fromarray(colours).save(root / "imagesTr" / f"{case}_0000{ending}")
        Image.fromarray(small()[1][0]).save(root / "labelsTr" / f"{case}{ending}")
    volume = next(iter(nnunet.volumes(root)))
    pixels, _, _ = nnunet_reads(root, ending, [str(root / "imagesTr" / f"p1_0000{ending}")])
    assert np.array_equal(volume.image, colours.transpose(2, 0, 1)[None])
    assert np.array_equal(volume.image[0], pixels[:, 0])
    assert check("own", spec(root)).channels == 3
    describe(root, channel_names={"0": "grey"})
    refused(root, r"p1_0000\.\w+: the case has 3 channels, dataset\.json names 1")
    describe(root, channel_names={"0": "R", "1": "G", "2": "B", "3": "depth"})
    for case in ("p1", "p2"):
        Image.fromarray(small()[0][0]).save(root / "imagesTr" / f"{case}_0001{ending}")
    assert np.array_equal(next(iter(nnunet.volumes(root))).image[0, 3], small()[0][0])


def test_a_label_in_colour_is_refused_and_a_palette_is_its_numbers(tmp_path):
    root = write_nnunet(tmp_path, ".png")
    _, label = small()
    indexed = Image.fromarray(label[0])
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    indexed.save(root / "labelsTr" / "p1.png")
    assert np.array_equal(next(iter(nnunet.volumes(root))).label, label[:1])
    indexed.convert("RGB").save(root / "labelsTr" / "p1.png")
    refused(root, r"p1\.png: a label needs one channel .* not colours")


def test_which_reader_is_honoured(tmp_path):
    root = write_nnunet(tmp_path, ".nii.gz", overwrite_image_reader_writer="NibabelIOWithReorient")
    image, label = small()
    for path, voxels in ((root / "imagesTr" / "p1_0000.nii.gz", image), (root / "labelsTr" / "p1.nii.gz", label)):
        affine = np.array([[0, 2, 0, 5], [-1.5, 0, 0, 40], [0, 0, 8, 0], [0, 0, 0, 1.0]])
        nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), affine), path)
    turned = next(iter(nnunet.volumes(root)))
    pixels, spacing, seg = nnunet_reads(root, ".nii.gz", [str(root / "imagesTr" / "p1_0000.nii.gz")])
    assert np.array_equal(turned.image, pixels[0]) and np.array_equal(turned.label, seg[0])
    assert np.allclose(turned.spacing_mm, spacing[1:])
    for name in ("NibabelIO", "SimpleITKIO", "None", None):
        describe(root, overwrite_image_reader_writer=name)
        stored = next(iter(nnunet.volumes(root)))
        assert np.array_equal(stored.image, image)
        assert not np.array_equal(stored.image.shape, turned.image.shape)
    for name in ("NaturalImage2DIO", "MyOwnIO", ["x"]):
        describe(root, overwrite_image_reader_writer=name)
        refused(root, r"dataset\.json: overwrite_image_reader_writer .* known are SimpleITKIO, NibabelIO, NibabelIOW")


def test_tiff_readers_and_spacing_files(tmp_path, caplog):
    root = write_nnunet(tmp_path, ".tif")
    assert next(iter(nnunet.volumes(root))).spacing_mm == (1.0, 1.0)
    assert "name no spacing" in caplog.text
    describe(root, overwrite_image_reader_writer="NaturalImage2DIO")
    refused(root, r"p1_0000\.tif: holds a stack, but dataset\.json asks for NaturalImage2DIO")
    describe(root, overwrite_image_reader_writer="Tiff3DIO")
    for text in (
        '{"spacing": [1, 1]}',
        '{"spacing": [1, 0, 1]}',
        '{"spacing": [1, NaN, 1]}',
        "[]",
        '{"spacing": "111"}',
    ):
        (root / "imagesTr" / "p1.json").write_text(text)
        refused(root, r'imagesTr.p1\.json: must hold "spacing"')
    (root / "imagesTr" / "p1.json").write_text('{"spacing": [10, 1.5, 1.25]}')
    (root / "labelsTr" / "p1.json").write_text('{"spacing": [10, 3, 2.5]}')
    refused(root, r"labelsTr.p1\.tif: spacing 10 x 3 x 2\.5 mm")


def test_simpleitk_is_optional_and_named_when_absent(tmp_path, monkeypatch):
    root = write_nnunet(tmp_path, ".nrrd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match=r"need SimpleITK; pip install 'prrmse\[images\]'"):
        check("own", spec(root))
    prepare("own", spec(write_nnunet(tmp_path / "other", ".nii.gz")))


@pytest.mark.parametrize(("ending", "line"), [(".mha", "ElementDataFile = {}"), (".nrrd", "data file: {}")])
def test_pixels_in_another_file_are_refused(tmp_path, ending, line):
    root = write_nnunet(tmp_path, ending)
    path = root / "imagesTr" / f"p1_0000{ending}"
    text = path.read_bytes()
    old = b"ElementDataFile = LOCAL" if ending == ".mha" else b"encoding:"
    new = line.format("/etc/passwd").encode() + (b"" if ending == ".mha" else b"\nencoding:")
    path.write_bytes(text.replace(old, new))
    assert path.read_bytes() != text
    refused(root, r"its pixels are in another file \(/etc/passwd\)")


def test_unknown_endings_are_refused(tmp_path):
    root = write_nnunet(tmp_path, ".nii.gz")
    for ending in (".jpg", "nii.gz", "", 7, "*"):
        describe(root, file_ending=ending)
        refused(root, r"dataset\.json: file_ending .* is not read; known are \.nii\.gz")


# ---- spacing and place ----------------------------------------------------------------------------


def save_with(path, voxels, *, sform=None, qform=None, pixdim=(1.25, 1.5, 10.0), unit=2):
    file = nib.Nifti1Image(voxels.transpose(2, 1, 0), None)
    for matrix, put in ((sform, file.header.set_sform), (qform, file.header.set_qform)):
        put(matrix, 0 if matrix is None else 1)
    file.header["pixdim"][1:4] = pixdim
    file.header["xyzt_units"] = unit
    path.write_bytes(file.to_bytes())
    # nibabel writes the header's form again when it saves: what counts is what lies on the disk.
    header = nib.Nifti1Header.from_fileobj(path.open("rb"))
    assert np.allclose(header["pixdim"][1:4], pixdim)
    return header


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sform": np.eye(4)},
        {"qform": np.diag([1.25, 1.5, 10, 1])},
        {"sform": np.diag([-1.25, -1.5, 10, 1])},
        {"sform": np.diag([1.0, 1.1, 9, 1])},  # a registration to a standard space: the grid is pixdim's
        {"pixdim": (0.00125, 0.0015, 0.01), "unit": 1},
        {"pixdim": (1250, 1500, 10000), "unit": 3},
    ],
)
def test_spacing_is_pixdim_and_pixels_are_as_stored(tmp_path, changes):
    root = write_nnunet(tmp_path, ".nii")
    image, label = small()
    save_with(root / "imagesTr" / "p1_0000.nii", image, **changes)
    save_with(root / "labelsTr" / "p1.nii", label, **changes)
    volume = next(iter(nnunet.volumes(root)))
    assert volume.spacing_mm == pytest.approx((1.5, 1.25))
    assert np.array_equal(volume.image, image) and np.array_equal(volume.label, label)


@pytest.mark.parametrize("pixdim", [(0, 1, 1), (-1.25, 1.5, 10), (np.nan, 1, 1), (np.inf, 1, 1)])
def test_a_spacing_that_is_none_is_refused(tmp_path, pixdim):
    root = write_nnunet(tmp_path, ".nii")
    header = nib.Nifti1Image(small()[0].transpose(2, 1, 0), np.eye(4))
    content = bytearray(header.to_bytes())
    content[80:92] = np.array(pixdim, "<f4").tobytes()
    (root / "imagesTr" / "p1_0000.nii").write_bytes(content)
    refused(root, r"p1_0000\.nii: pixel spacing .* is not positive")


def test_pixels_of_a_wrong_unit_are_refused(tmp_path):
    """The smoothing before 1e-6 mm become 1 mm would never end."""
    root = write_nnunet(tmp_path, ".nii")
    for path, voxels in zip(("imagesTr/p1_0000.nii", "labelsTr/p1.nii"), small(), strict=True):
        save_with(root / path, voxels, pixdim=(1e-6, 1e-6, 10))
    refused(root, r"p1_0000\.nii: pixels of 1e-06 x 1e-06 mm are more than 64 times finer")


AFFINE = np.array([[-1.25, 0, 0, 30], [0, -1.5, 0, 40], [0, 0, 10, -5], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.diag([2.0, 2.0, 1, 1]) @ AFFINE, "spacing 10 x 3 x 2.5 mm and that of its image .*10 x 1.5 x 1.25 mm"),
        (AFFINE @ np.diag([-1.0, 1, 1, 1]), "lies up to 22.5 mm away"),
        (AFFINE @ np.diag([1.0, 1, -1, 1]), "lies up to 20 mm away"),
        (AFFINE + np.eye(4)[:, [0]] @ np.array([[0, 0, 0, 50.0]]), "lies up to 50 mm away"),
        (AFFINE + np.eye(4)[:, [1]] @ np.array([[0, 0, 0, 0.01]]), None),
        (np.eye(4), "spacing 1 x 1 x 1 mm"),
    ],
)
def test_a_label_elsewhere_than_its_image_is_refused(tmp_path, change, message):
    own = write_nnunet(tmp_path / "own", ".nii.gz")
    image, label = small()
    nib.save(nib.Nifti1Image(image.transpose(2, 1, 0), AFFINE), own / "imagesTr" / "p1_0000.nii.gz")
    nib.save(nib.Nifti1Image(label.transpose(2, 1, 0), change), own / "labelsTr" / "p1.nii.gz")
    folder = tmp_path / "acdc" / "patient001"
    write_acdc_patient(folder)
    for name, voxels, affine in (("01", image, AFFINE), ("01_gt", label, change)):
        nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), affine), folder / f"patient001_frame{name}.nii.gz")
    for reader, root, name in ((nnunet, own, "labelsTr.p1"), (acdc, tmp_path / "acdc", "frame01_gt")):
        if message is None:
            assert next(iter(reader.volumes(root)))
        else:
            with pytest.raises(InputError, match=rf"{name}\.nii\.gz: {message}"):
                list(reader.volumes(root))


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_the_same_through_simpleitk(tmp_path, ending):
    sitk = pytest.importorskip("SimpleITK")
    root = write_nnunet(tmp_path, ending)
    path = root / "labelsTr" / f"p1{ending}"
    label = sitk.ReadImage(str(path))
    for change, message in (
        (lambda i: i.SetSpacing([2.5, 3, 10]), "spacing 10 x 3 x 2.5 mm"),
        (lambda i: i.SetOrigin([50, 0, 0]), "lies up to 50 mm away"),
        (lambda i: i.SetDirection([-1, 0, 0, 0, 1, 0, 0, 0, 1]), "lies up to 22.5 mm away"),
    ):
        changed = sitk.Image(label)
        change(changed)
        sitk.WriteImage(changed, str(path))
        refused(root, rf"p1{ending}: {message}")


# ---- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"background": 0, "whole": [1, 2], "core": [2]},
            r"'whole' is a region \(\[1, 2\]\).* turn regions into labels",
        ),
        ({"background": 0, "a": [1], "b": 2}, "'a' is a region"),
        ({"0": "background", "1": "lesion", "2": "lesion"}, "two labels are called 'lesion'"),
        ({"background": 0, "a": 1, "b": 1}, "'a' and 'b' have one number, 1"),
        ({"none": 0, "a": 1, "background": 2}, "label 0 must be the background, not 'none'"),
        ({"0": "background", "1": "a", "2": "background"}, "two labels are called 'background'"),
        ({"background": 1, "a": 2}, "label 1 has the name 'background'"),
        ({"a": 1, "mean": 2}, "label 2 has the name 'mean'"),
        ({"0": "background", "1": "mean_with_background"}, "label 1 has the name 'mean_with_background'"),
        ({"a": 1, "b": "two"}, "whole numbers from 0, not 'b' to 'two'"),
        ({"a": 1.5}, "whole numbers from 0, not 'a' to 1.5"),
        ({"a": True}, "whole numbers from 0"),
        ({"a": -1}, "numbers start at 0"),
        ({" ": 1}, "is no name"),
        ({"background": 0}, "no foreground"),
        ({"background": 0, "ignore": 1}, "no foreground"),
        ({}, "no foreground"),
        ({f"c{i}": i for i in range(1, 300)}, "299 classes, more than the 254"),
    ],
)
def test_labels_that_cannot_be_meant(tmp_path, labels, message):
    root = write_nnunet(tmp_path, ".nii", labels=labels)
    with pytest.raises(InputError, match=rf"dataset\.json: .*{message}"):
        check("own", spec(root))


def test_a_key_that_is_there_twice(tmp_path):
    """Python's json keeps the last one without a word."""
    root = write_nnunet(tmp_path, ".nii")
    (root / "dataset.json").write_text('{"file_ending": ".nii", "labels": {"lesion": 1, "lesion": 2}}')
    refused(root, r"dataset\.json: .*the key 'lesion' is there twice")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({"background": 0, "a": 1, "b": 2}, {1: "a", 2: "b"}),
        ({"background": "0", "b": "2", "a": "1"}, {1: "a", 2: "b"}),
        ({"0": "background", "1": "a", "2": "b"}, {1: "a", 2: "b"}),
        ({"a": 1, "b": 2}, {1: "a", 2: "b"}),
        ({"0": 0, "1": 1, "2": 2}, None),
        ({"background": 0, "1": 1, "2": 2}, {1: "1", 2: "2"}),
        ({"background": 0, "a": 1, "b": 2, "ignore": 3}, {1: "a", 2: "b"}),
    ],
)
def test_labels_either_way_round(tmp_path, labels, classes):
    root = write_nnunet(tmp_path, ".nii", labels=labels)
    if classes is None:
        refused(root, "label 0 must be the background")
        return
    assert nnunet.classes(root) == classes
    assert np.array_equal(next(iter(nnunet.volumes(root))).label, small()[1])


def test_gaps_between_labels_are_closed_and_others_refused(tmp_path):
    root = write_nnunet(tmp_path, ".nii", labels={"background": 0, "b": 500, "a": 7})
    for case in ("p1", "p2"):
        values = np.array([0, 7, 500], np.int16)[small()[1]]
        write_image(root / "labelsTr" / f"{case}.nii", values)
    assert nnunet.classes(root) == {1: "a", 2: "b"}
    assert check("own", spec(root)).classes == 3
    assert np.array_equal(next(iter(nnunet.volumes(root))).label, small()[1])
    write_image(root / "labelsTr" / "p2.nii", small()[1])
    refused(root, r"p2\.nii: unknown labels \[1, 2\]; known are \[0, 7, 500\]")
    write_image(root / "labelsTr" / "p2.nii", small()[1] + np.float32(0.5))
    refused(root, r"p2\.nii: labels must be whole numbers")


def test_ignored_pixels_are_255_and_slices_of_nothing_else_are_left_out(tmp_path):
    root = write_nnunet(tmp_path, ".nii", labels={**LABELS, "ignore": 3})
    image, label = small(3)
    label[0, :2] = 3
    label[1] = 3
    for case in ("p1", "p2"):
        write_image(root / "imagesTr" / f"{case}_0000.nii", image, (10, 1, 1))
        write_image(root / "labelsTr" / f"{case}.nii", label, (10, 1, 1))
    found = prepare("own", spec(root))
    assert found.index["slice"].tolist() == [0, 2] * 2
    assert found.classes == {1: "a", 2: "b"}
    assert set(np.unique(found.label)) == {0, 1, IGNORE}
    assert (found.label[0] == IGNORE).sum() == 2 * 10
    save_slices(found, tmp_path / "d.npz")
    assert load_slices(tmp_path / "d.npz").fingerprint() == found.fingerprint()
    # A crop around the labels is around the structures, not around what is ignored.
    centred = prepare("own", spec(root, crop="label"))
    rows, columns = np.nonzero(centred.label[0] == 1)
    assert (rows.mean(), columns.mean()) == pytest.approx((7.5, 7.5), abs=0.51)


# ---- files ----------------------------------------------------------------------------------------


def test_an_image_without_a_label_and_the_reverse_are_named(tmp_path):
    root = write_nnunet(tmp_path, ".nii.gz")
    extra = root / "imagesTr" / "p3_0000.nii.gz"
    write_image(extra, small()[0])
    refused(root, r"p3_0000\.nii\.gz: has no label; add .*labelsTr.p3\.nii\.gz or remove")
    extra.rename(root / "imagesTr" / "p1_0001.nii.gz")
    refused(root, r"p1_0001\.nii\.gz: is one channel more than dataset\.json names \(1\)")
    (root / "imagesTr" / "p1_0001.nii.gz").rename(root / "imagesTr" / "._p9_0000.nii.gz")
    prepare("own", spec(root))
    (root / "imagesTr" / "p2_0000.nii.gz").unlink()
    refused(root, r"labelsTr.p2\.nii\.gz: has no image; add .*p2_0000\.nii\.gz")


def test_the_decathlon_needs_no_channel_number(tmp_path):
    write_decathlon(tmp_path, cases=2)
    assert [case.images[0].name for case in nnunet.cases(tmp_path)] == ["heart_000.nii.gz", "heart_001.nii.gz"]
    (tmp_path / "labelsTr" / "heart_001.nii.gz").unlink()
    refused(tmp_path, r"heart_001\.nii\.gz: has no label; add .*labelsTr.heart_001\.nii\.gz")


@pytest.mark.parametrize("where", ["imagesTr/p1_0000.nii", "labelsTr/p1.nii", "dataset.json"])
def test_what_is_no_file_is_one_line(tmp_path, where):
    root = write_nnunet(tmp_path, ".nii")
    path = root / where
    for make, message in (
        (path.mkdir, "is a folder, expected a file"),
        (lambda: os.mkfifo(path), "is a pipe or device"),
        (lambda: path.symlink_to(path), "cannot be read|no such file|Too many levels"),
        (lambda: path.symlink_to(tmp_path / "nowhere"), "no such file"),
        (lambda: path.symlink_to("/dev/zero"), "is a pipe or device"),
    ):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        make()
        refused(root, rf"{path.name}: .*({message})")


@pytest.mark.parametrize(
    "content",
    [b"\xe9\xff\xfe", b"[" * 100_000, b'{"labels": ' * 50_000, b"", b"{", b"9" * 5000, b'{"labels": {"a": 1e999}}'],
)
def test_a_description_that_is_none_is_one_line(tmp_path, content):
    root = write_nnunet(tmp_path, ".nii")
    (root / "dataset.json").write_bytes(content)
    refused(root, r"dataset\.json: (truncated or not valid JSON|needs an object|labels must map)")


# ---- patients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cases", "patients"),
    [
        (["patient001_ED", "patient001_ES", "patient002_ED"], ["patient001"] * 2 + ["patient002"]),
        (["patient001_frame01", "patient001_frame12"], ["patient001"] * 2),
        (["sub-01_ses-02", "sub-01_ses-03_run-1_T1w", "sub-02"], ["sub-01", "sub-01", "sub-02"]),
        (["MM_A0S9V9_ED", "MM_A0S9V9_ES", "MM_A1D9Z7_ED"], ["MM_A0S9V9"] * 2 + ["MM_A1D9Z7"]),
        (["ED_A1D9Z7", "ES_A1D9Z7"], ["A1D9Z7"] * 2),
        (["P001-1", "P001-2", "P002-1"], ["P001", "P001", "P002"]),
        (["P001", "P001-2", "P002-1"], ["P001", "P001", "P002"]),
        (["case_00_0000", "case_00_0001", "case_01_0000"], ["case_00", "case_00", "case_01"]),
        (["mmsA017ED", "mmsA017ES"], ["mmsA017"] * 2),
        (["anna_ED", "anna_ES", "bert_ED"], ["anna", "anna", "bert"]),
        (["p7_ED_slice03", "p7_slice-04", "p7_z12", "p8_slice03"], ["p7"] * 3 + ["p8"]),
        (["12_baseline", "12_followup2", "13_baseline"], ["12", "12", "13"]),
        (["003_S_0001_m06", "003_S_0001_m12", "003_S_0002_m06"], ["003_S_0001"] * 2 + ["003_S_0002"]),
        # Not told apart by anything known: each its own.
        (["heart_000", "heart_001"], None),
        (["BRATS_001", "BRATS_002"], None),
        ([f"BraTS2021_{i:05d}" for i in range(40)], None),
        ([f"site{s}_{i:03d}" for s in (1, 2) for i in range(30)], None),
        (["la003", "la004", "img-11", "Case_N012", "emidecP059"], None),
        (["T1_01", "T1_02"], None),
    ],
)
def test_patients_are_recognised_by_name(cases, patients):
    found = patients_of(cases)
    assert [found[case][0] for case in cases] == (patients or cases)
    assert len(set(found.values())) == len(cases), "two cases of a patient are two frames"


@pytest.mark.parametrize(
    ("endings", "pattern", "told"),
    [
        (
            ("T2", "LGE"),
            None,
            "P00 and P00_LGE count as two patients, who may be in different splits, and so do 3 more",
        ),
        (("T2", "LGE"), r"(?P<patient>P\d+)_(?P<frame>.*)", None),
        (("ED", "ES"), None, None),
    ],
)
def test_two_patients_whose_names_begin_alike_may_be_one(tmp_path, caplog, endings, pattern, told):
    root = write_nnunet(tmp_path, ".png", tuple(f"P{p:02d}_{ending}" for p in range(4) for ending in endings))
    prepare("own", spec(root, case_pattern=pattern))
    said = [record for record in caplog.records if "count as two patients" in record.getMessage()]
    assert [(record.levelno, record.getMessage().startswith(f"own: {told}")) for record in said] == (
        [(logging.WARNING, True)] if told else []
    )


def test_frames_of_a_patient_stay_in_one_split_and_the_user_is_told(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cases = tuple(f"patient{p:03d}_{frame}" for p in range(6) for frame in ("ED", "ES"))
    root = write_nnunet(tmp_path, ".png", cases)
    for seed in range(5):
        found = prepare("own", spec(root, split=HALVES.model_copy(update={"seed": seed})))
        assert found.index.groupby("patient")["split"].nunique().max() == 1
        assert len(found.patients()) == 6 and set(found.index["frame"]) == {"ED", "ES"}
    assert "12 cases of 6 patients" in caplog.text
    caplog.clear()
    alone = prepare("own", spec(root, case_pattern="(?P<patient>.*)"))
    assert len(alone.patients()) == 12
    assert "12 cases of 12 patients, told apart by case_pattern" in caplog.text
    caplog.clear()
    for path in root.rglob("*.png"):
        path.rename(path.with_name("case" + path.name.removeprefix("patient").replace("_ED", "3").replace("_ES", "7")))
    assert len(prepare("own", spec(root)).patients()) == 12
    told = [record.getMessage() for record in caplog.records if "counts as a patient of its own" in record.getMessage()]
    assert len(told) == 1 and "set case_pattern (--case-pattern)" in told[0]


def test_a_pattern_that_fits_no_case_is_shown_as_it_is_to_be_written(tmp_path):
    """Settings stand in angle brackets in errors, and so do groups of regular expressions."""
    root = write_nnunet(tmp_path, ".png")
    with pytest.raises(InputError) as e:
        check("own", spec(root, case_pattern=r"(?P<patient>x\d+)"))
    said = e.value.message_for({"case_pattern": "datasets.{}.case_pattern", "patient": "?"})
    assert said.startswith("datasets.own.case_pattern: ")
    assert r"(?P<patient>patient\d+)_(?P<frame>frame\d+)" in said
