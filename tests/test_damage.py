"""Damaged files and files made to do harm: each is one line that names the file, never a traceback."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from cohorts import write_acdc_patient, write_rvsc_patient, write_t1
from damage import damaged, small, write_all, write_image, write_nnunet
from pydicom.uid import DeflatedExplicitVRLittleEndian

from prrmse.data import acdc, nifti, nnunet, rvsc, slices, t1
from prrmse.data.prepare import READERS
from prrmse.data.slices import load_slices
from prrmse.errors import InputError

SEEDS = range(16)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("sets"))


KINDS = [f"nnunet{e}" for e in (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".bmp", ".tif", ".tiff")]


def read(kind: str, root: Path) -> None:
    if kind == "processed":
        load_slices(root)
    else:
        list(READERS[kind.split(".")[0]].volumes(root))


@pytest.mark.parametrize("kind", [*KINDS, "acdc", "rvsc", "t1", "processed"])
def test_damage_is_one_line_or_harmless(sets, kind):
    """Seeded bits flipped, bytes inserted and removed, ends cut off: 400 files over all readers."""
    root, files = sets[kind]
    read(kind, root)
    refusals = 0
    for path in files:
        whole = path.read_bytes()
        for seed in SEEDS:
            path.write_bytes(damaged(whole, np.random.default_rng([seed, len(path.name)])))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    read(kind, root)
            except InputError as e:
                refusals += 1
                assert "\n" not in str(e) and str(root) in str(e)
        path.write_bytes(whole)
    assert refusals, "the damage did nothing"


def refused(reader, root, message):
    with pytest.raises(InputError, match=message) as e:
        list(reader.volumes(root))
    assert "\n" not in str(e.value)


def test_a_header_that_asks_for_gigabytes_is_refused_before_they_are_unpacked(tmp_path):
    root = write_nnunet(tmp_path, ".nii.gz")
    header = nib.Nifti1Header()
    header.set_data_shape((2048, 2048, 2048))
    header.set_data_dtype(np.uint8)
    header["pixdim"][1:4], header["vox_offset"] = 1, 352
    path = root / "imagesTr" / "p1_0000.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(2**20)))
    tracemalloc.start()
    refused(nnunet, root, r"p1_0000\.nii\.gz: its header says 2048 x 2048 x 2048 pixels, expected 1 to 134217728")
    assert tracemalloc.get_traced_memory()[1] < 2**26
    tracemalloc.stop()


def test_more_bytes_than_the_header_says_are_refused_too(tmp_path, monkeypatch):
    root = write_nnunet(tmp_path, ".nii.gz")
    path = root / "imagesTr" / "p1_0000.nii.gz"
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole + bytes(100)))
    assert list(nnunet.volumes(root)), "a few are harmless"
    monkeypatch.setattr(nifti, "MAX_BYTES", 100_000)
    path.write_bytes(gzip.compress(whole + bytes(200_000)))
    refused(nnunet, root, r"p1_0000\.nii\.gz: unpacks to more than 100000 bytes")


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".png", ".tif"])
def test_the_same_for_other_formats(tmp_path, ending):
    root = write_nnunet(tmp_path, ending)
    path = root / "imagesTr" / f"p1_0000{ending}"
    content = path.read_bytes()
    if ending == ".mha":
        content = content.replace(b"DimSize = 10 12 2", b"DimSize = 4096 4096 4096")
    elif ending == ".nrrd":
        content = content.replace(b"sizes: 10 12 2", b"sizes: 4096 4096 4096")
    elif ending == ".png":
        content = content[:16] + struct.pack(">II", 40_000, 40_000) + content[24:]
    else:
        tifffile.imwrite(path, shape=(2, 12, 10), dtype=np.uint8)
        with tifffile.TiffFile(path, mode="r+b") as file:
            for name in ("ImageWidth", "ImageLength"):
                file.pages[0].tags[name].overwrite(60_000)
        content = path.read_bytes()
    path.write_bytes(content)
    refused(nnunet, root, rf"p1_0000\{ending}: (its header says .* pixels|truncated or not)")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"NDims = 3", b"NDims = 9999"),
        (b"NDims = 3", b"NDims = -1"),
        (b"DimSize = 10 12 2", b"DimSize = 10 12 2" + b" 1" * 50),
        (b"Offset = 0 0 0", b"Offset = 0 0 nan"),
        (b"TransformMatrix = 1", b"TransformMatrix = 1 0 0 0 1"),
        (b"BinaryData = True", b"NDims = 3"),
        (b"BinaryData = True", b"\xff\xfe"),
        (b"CompressedData = True", b"CompressedData = True\nHeaderSize = 99999999999"),
    ],
)
def test_a_metaimage_that_simpleitk_would_read_beyond_its_memory(tmp_path, old, new):
    """The first crashes Python in SimpleITK 2.5: its arrays hold ten numbers, whatever NDims says."""
    root = write_nnunet(tmp_path, ".mha")
    path = root / "imagesTr" / "p1_0000.mha"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    refused(nnunet, root, r"p1_0000\.mha: truncated or not MetaImage")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"encoding: gzip", b"encoding: " + b"x" * 5000),
        (b"type: unsigned char", b"type: " + b"x" * 5000),
        (b"dimension: 3", b"dimension: 9999"),
        (b"dimension: 3", b"dimension: 3\nDimension: 3"),
        (b"kinds:", b"byte skip: 99999999999\nkinds:"),
        (b"NRRD0004", b"NRRX0004"),
        (b"kinds:", b"k\xff:"),
    ],
)
def test_a_nrrd_that_its_library_would_read_beyond_its_memory(tmp_path, old, new):
    """The first two crash Python in SimpleITK 2.5."""
    root = write_nnunet(tmp_path, ".nrrd")
    path = root / "imagesTr" / "p1_0000.nrrd"
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    refused(nnunet, root, r"p1_0000\.nrrd: truncated or not NRRD")


def test_pages_in_a_circle_end(tmp_path):
    """tifffile alone follows them for ever."""
    root = write_nnunet(tmp_path, ".tif")
    path = root / "imagesTr" / "p1_0000.tif"
    tifffile.imwrite(path, small(150)[0], metadata=None)
    with tifffile.TiffFile(path) as file:
        offsets = [page.offset for page in file.pages]
        last = file.pages[149]
    content = bytearray(path.read_bytes())
    where = last.offset + 2 + 12 * len(last.tags)
    content[where : where + 4] = struct.pack("<I", offsets[120])
    path.write_bytes(content)
    refused(nnunet, root, r"p1_0000\.tif: .*its pages run in a circle")


def test_nan_and_overflow_in_any_format(tmp_path):
    for ending in (".nii", ".mha", ".tif"):
        for value in (np.nan, np.inf, 1e300, 1e35):
            root = write_nnunet(tmp_path / f"{ending}{value}", ending)
            image = small()[0].astype(float)
            image[0, 0, 0] = value
            write_image(root / "imagesTr" / f"p1_0000{ending}", image)
            refused(nnunet, root, rf"p1_0000\{ending}: p1, frame 1: the image holds (NaN or infinite|values beyond)")


def test_acdc_text_of_another_encoding(tmp_path):
    write_acdc_patient(tmp_path / "patient001")
    info = tmp_path / "patient001" / "Info.cfg"
    info.write_bytes("Group: R\xe9mi\nED: 1\nES: 12\n".encode("latin-1"))
    assert [volume.frame for volume in acdc.volumes(tmp_path)] == ["ED", "ES"]
    info.write_text("ED: \u00b2\nES: 12\n")
    refused(acdc, tmp_path, r"Info\.cfg: must hold")
    info.unlink()
    info.mkdir()
    refused(acdc, tmp_path, r"Info\.cfg: is a folder")


@pytest.fixture
def rvsc_root(tmp_path):
    write_rvsc_patient(tmp_path / "TrainingSet", 1, frames=(80, 87))
    return tmp_path


def test_rvsc_exchanged_contours(rvsc_root):
    folder = rvsc_root / "TrainingSet" / "patient01" / "P01contours-manual"
    inner, outer = (folder / f"P01-0087-{kind}contour-manual.txt" for kind in "io")
    wide, narrow = outer.read_text(), inner.read_text()
    inner.write_text(wide)
    assert list(rvsc.volumes(rvsc_root)), "a wall of no thickness may be"
    outer.write_text(narrow)
    refused(rvsc, rvsc_root, r"P01-0087-icontour-manual\.txt: the inner contour .* are they exchanged")
    inner.write_text("40 50\n45 50\n45 55\n40 55\n")
    refused(rvsc, rvsc_root, r"P01-0087-icontour-manual\.txt: the inner contour .* of another image")
    inner.write_text("10 10\n" * 20_000)
    refused(rvsc, rvsc_root, r"P01-0087-icontour-manual\.txt: the contour has 20000 points")


def test_rvsc_dicom_that_asks_for_too_much(rvsc_root):
    path = rvsc_root / "TrainingSet" / "patient01" / "P01dicom" / "P01-0080.dcm"
    file = pydicom.dcmread(path)
    for changes, message in (
        ({"Rows": 60_000, "Columns": 60_000}, "its header says .* pixels"),
        ({"NumberOfFrames": 3}, "expected one grey image .* found 3 frames"),
        ({"PixelData": 2 * file.PixelData}, "pixels, its header says"),
        ({"PixelSpacing": [-1.5, 1.25]}, "pixel spacing .* is not positive"),
        ({"CardiacNumberOfImages": -4}, "-4 images a cycle"),
    ):
        changed = pydicom.dcmread(path)
        for name, value in changes.items():
            setattr(changed, name, value)
        whole = path.read_bytes()
        changed.save_as(path)
        refused(rvsc, rvsc_root, message)
        path.write_bytes(whole)
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file.save_as(path)
    refused(rvsc, rvsc_root, r"P01-0080\.dcm: deflated DICOM is not read")
    # The first element of the header claims two gigabytes: no such buffer is asked for.
    path.write_bytes(whole[:132] + b"\x02\x00\x01\x00OB\x00\x00\xff\xff\xff\x7f" + whole[132:])
    tracemalloc.start()
    refused(rvsc, rvsc_root, r"P01-0080\.dcm: ")
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()


def test_t1_exchanged_contours_and_sizes_that_are_none(tmp_path):
    path = tmp_path / "T1.mat"
    write_t1(path, patients=1, slices=1, times=2)
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        first, second = (file["#refs#/EpiContours0"], file["#refs#/EndoContours0"])
        epi, endo = first[...], second[...]
        first[...], second[...] = endo, epi
    refused(t1, path, "patient 1, image 1, slice 1: the inner contour .* are they exchanged")
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        file.create_dataset("huge", (1, 1, 2**20, 2**20), np.float32, chunks=(1, 1, 64, 64))
        file["Dataset/Img"][0, 0] = file["huge"].ref
    refused(t1, path, "patient 1: field Img: its header says 1 x 1 x 1048576 x 1048576 pixels")
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        del file["Dataset"]
        file["Dataset"] = np.zeros(3)
    refused(t1, path, r"T1\.mat: the struct `Dataset` has no field Img")


@pytest.mark.parametrize("kind", ["link", "storage"])
def test_t1_opens_no_other_file(tmp_path, kind):
    path, other = tmp_path / "T1.mat", tmp_path / "secret"
    write_t1(path, patients=1, slices=1, times=2)
    other.write_bytes(bytes(10**6))
    with h5py.File(path, "r+") as file:
        image = file["#refs#/Img0"]
        if kind == "link":
            del file["Dataset/Img"]
            file["Dataset/Img"] = h5py.ExternalLink(str(other), "/x")
        else:
            stored = file.create_dataset("y", image.shape, "f8", external=[(str(other), 0, 8 * image.size)])
            file["Dataset/Img"][0, 0] = stored.ref
    refused(t1, path, r"T1\.mat: .*in another file")


def test_a_processed_set_that_asks_for_too_much(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "MAX_BYTES", 2**20)
    whole = sets["processed"][0].read_bytes()
    path = tmp_path / "d.npz"
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file, file.open("more.npy", "w") as member:
        member.write(bytes(2**24))
    with pytest.raises(InputError, match=r"d\.npz: .*asks for 16\d+ bytes"):
        load_slices(path)
    monkeypatch.undo()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824,)}"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("image.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    with pytest.raises(InputError, match=r"d\.npz: .*image\.npy asks for more than it holds"):
        load_slices(path)
    found = dict(np.load(sets["processed"][0]))
    for changes, message in (
        ({"image": found["image"] * np.nan}, "NaN"),
        ({"label": found["label"] + 7}, "labels are not among"),
        ({"label": found["label"][:1]}, "of 2 slices"),
        ({"image": found["image"][:1]}, "of 2 slices"),
        ({"meta": np.array("[]")}, "not a complete processed"),
        ({"index_split": np.array(["train", "dev"])}, "index is not whole"),
        ({"index_patient": np.array(["p1", "p1"])}, "the patient p1 is in two splits"),
        ({"index_patient": np.zeros(2, "M8[s]")}, "index is not whole"),
    ):
        np.savez(path, **{**found, **changes})
        with pytest.raises(InputError, match=rf"d\.npz: .*{message}"):
            load_slices(path)
