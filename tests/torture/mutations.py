"""Mutations of valid files. Each takes the content and a random generator, from which all its draws come."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import yaml
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

Mutation = Callable[[bytes, random.Random], bytes]

EDGES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
FLOATS = [0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"), 1e-6, 1e6]
SHORTS = [0, -1, 1, 2, 3, 4, 7, 8, 100, 32767, -32768]
ODD: list[Any] = [
    None, True, False, 0, -1, 1.7, 2**31, 2**63, 10**400, float("nan"), float("inf"), "", "x", "\u00b2", "\ud800",
    "a\0b",
    "../../etc/passwd", "x" * 5000, "\n", "<script>", "$x_{", [], {}, [[]], {"a": {}}, [None], "1", "-1", "\u202e",
    "NaN",
    "1e999", "**", "/", ".", "\u0661", [1, "a"], {"1": "a", "01": "b"}, "background", "mean", 1e-320, -0.0,
]  # fmt: skip


# --- any bytes ---


def flip(b: bytes, r: random.Random) -> bytes:
    found = bytearray(b)
    for _ in range(r.choice([1, 1, 1, 2, 8])):
        if found:
            found[r.randrange(len(found))] ^= 1 << r.randrange(8)
    return bytes(found)


def overwrite_head(b: bytes, r: random.Random) -> bytes:
    found = bytearray(b)
    for _ in range(r.choice([1, 1, 3])):
        if found:
            found[r.randrange(min(len(found), 512))] = r.randrange(256)
    return bytes(found)


def truncate(b: bytes, r: random.Random) -> bytes:
    return b[: r.randrange(len(b) + 1)] if r.random() < 0.7 else b[: -r.randrange(1, 17)]


def insert(b: bytes, r: random.Random) -> bytes:
    at = r.randrange(len(b) + 1)
    return b[:at] + r.randbytes(r.choice([1, 2, 4, 16, 100])) + b[at:]


def delete(b: bytes, r: random.Random) -> bytes:
    at = r.randrange(len(b) + 1)
    return b[:at] + b[at + r.choice([1, 2, 4, 16, 100]) :]


def zeros(b: bytes, r: random.Random) -> bytes:
    at, n = r.randrange(len(b) + 1), r.choice([4, 16, 64, 512])
    return b[:at] + bytes(min(n, len(b) - at)) + b[at + n :]


def repeat(b: bytes, r: random.Random) -> bytes:
    at, n = r.randrange(len(b) + 1), r.choice([4, 16, 64, 512])
    return b[: at + n] + b[at : at + n] + b[at + n :]


def integers(b: bytes, r: random.Random) -> bytes:
    width = r.choice([1, 2, 4, 8])
    value = r.choice(EDGES) % 256**width
    at = r.randrange(max(1, len(b) - width))
    return b[:at] + value.to_bytes(width, r.choice(["little", "big"])) + b[at + width :]


def trailing(b: bytes, r: random.Random) -> bytes:
    return b + r.choice([b"\0", b"\0" * 512, r.randbytes(64), b])


def noise(b: bytes, r: random.Random) -> bytes:
    return r.choice([b"", r.randbytes(1), r.randbytes(100), r.randbytes(len(b))])


RAW: list[Mutation] = [
    flip,
    flip,
    overwrite_head,
    truncate,
    insert,
    delete,
    zeros,
    repeat,
    integers,
    integers,
    trailing,
    noise,
]


# --- NIfTI ---


def _unpacked(b: bytes) -> bytes:
    return gzip.decompress(b) if b[:2] == b"\x1f\x8b" else b


def _packed(x: bytes, like: bytes) -> bytes:
    return gzip.compress(x, 1, mtime=0) if like[:2] == b"\x1f\x8b" else x


NIFTI_FIELDS: dict[str, tuple[str, list[int], list[Any]]] = {
    "dim": ("<h", [40 + 2 * i for i in range(8)], SHORTS),
    "pixdim": ("<f", [76 + 4 * i for i in range(8)], FLOATS),
    "datatype": ("<h", [70], [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1]),
    "bitpix": ("<h", [72], [0, 1, 8, 16, 32, 64, -8, 24]),
    "vox_offset": ("<f", [108], [0, 1, 348, 352, 353, 1e9, -352, float("nan"), float("inf"), 400]),
    "scaling": ("<f", [112, 116], FLOATS),
    "codes": ("<h", [252, 254], SHORTS),
    "affine": ("<f", [256 + 4 * i for i in range(18)], FLOATS),
    "sizeof_hdr": ("<i", [0], [0, 348, 540, -1, 2**31 - 1]),
    "magic": ("<i", [344], [0, 0x316E, 0x322B6E]),
    "units": ("<b", [123], [0, 1, 2, 3, 8, 127, -1]),
}


def nifti_header(b: bytes, r: random.Random) -> bytes:
    """Extremes in named fields; packed again with a right checksum."""
    x = bytearray(_unpacked(b))
    for _ in range(r.choice([1, 1, 2])):
        form, places, values = NIFTI_FIELDS[r.choice(list(NIFTI_FIELDS))]
        struct.pack_into(form, x, r.choice(places), r.choice(values))
    return _packed(bytes(x), b)


def nifti_voxels(b: bytes, r: random.Random) -> bytes:
    x = _unpacked(b)
    return _packed(x[:352] + r.choice(RAW)(x[352:], r), b)


MANY_ZEROS = gzip.compress(bytes(10_000_000), 9)


def gzip_members(b: bytes, r: random.Random) -> bytes:
    """Packed twice, in two parts, not at all, or with gigabytes of zeros behind."""
    plain = _unpacked(b)
    half = len(plain) // 2
    return r.choice([
        gzip.compress(gzip.compress(plain, 1)),
        gzip.compress(plain[:half]) + gzip.compress(plain[half:]),
        plain,
        gzip.compress(plain) + MANY_ZEROS * r.choice([1, 2, 120]),
        gzip.compress(plain) + b"\0" * 100,
    ])  # fmt: skip


# --- text ---


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from paths_in(part, (*path, key))


def change_value(value: Any, r: random.Random, odd: list[Any] = ODD) -> None:
    """One value of nested dicts and lists replaced, dropped or renamed."""
    path = r.choice(list(paths_in(value)))
    if not path:
        return
    for part in path[:-1]:
        value = value[part]
    kind = r.randrange(5)
    if kind == 0:
        del value[path[-1]]
    elif kind == 1 and isinstance(value, dict):
        value[r.choice(["", "0", "1", "01", "\u00b2", "-1", "a\nb", "x" * 300, "../x", "1.5"])] = value.pop(path[-1])
    else:
        value[path[-1]] = copy.deepcopy(r.choice(odd))  # the next change may be made in it


def json_text(b: bytes, r: random.Random) -> bytes:
    value = json.loads(b)
    kind = r.randrange(14)
    if kind < 5:
        return [
            b"[" * 100_000 + b"]" * 100_000,
            b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
            b"\xff\xfe" + b,
            b.replace(b'"', b"'", r.choice([-1, 1])),
            b"\xef\xbb\xbf" + b,
        ][kind]
    for _ in range(r.choice([1, 1, 2])):
        change_value(value, r)
    return json.dumps(value).encode()


def yaml_text(b: bytes, r: random.Random) -> bytes:
    """Values changed and written again, or odd YAML in the place of a value."""
    kind = r.randrange(10)
    if kind < 5:
        params = yaml.safe_load(b)
        for _ in range(r.choice([1, 1, 2])):
            change_value(params, r)
        try:
            return yaml.safe_dump(params, allow_unicode=r.random() < 0.5).encode(errors="surrogatepass")
        except ValueError:  # more digits than Python prints
            return b"- 1"
    lines = b.decode().splitlines()
    at = r.randrange(len(lines))
    odd = r.choice([
        "*x", "&x [*x]", "!!python/object/apply:os.system ['touch RAN']", "!!binary x", "2001-99-99", "!!int x",
        "0o9", ".inf",
        ".nan", "-.inf", "1_000", "0x7f", "1:30", "yes", "~", "!!set {a}", "!!float 1e400", '"\\ud800"', "|\n  a\n  b",
        "? [1]\n: 2", "{a: {b: {c: 1}}}", "!!timestamp x", "2001-01-01", "=", "<<", "!!omap [a: 1]", "[" * 3000,
        "{a: " * 2000, "'\\x00'", "1e-3", "&a {<<: *a}", "!!str 1", "1" * 5000,
    ])  # fmt: skip
    if kind < 8:
        lines[at] = f"{lines[at].split(':')[0]}: {odd}"
    elif kind == 8:
        lines.insert(at, odd)
    else:
        return b.decode().encode(r.choice(["utf-16", "utf-8-sig", "utf-32"])) + "# Z\u00fcrich".encode("latin1")
    return "\n".join(lines).encode(errors="surrogatepass")


LINES = [
    b"nan nan", b"inf 1", b"1e400 2", b"-1 -1", b"1", b"1 2 3", b"a b", b"\xb2 1", b"\xff\xfe", b"1,5 2,5",
    b"1e999999 1",
    b"0x10 0x10", b"1_0 2", b"ED: -1", b"ED: 99999999999999999999999", b"ES: 1.5", b"ED: \xd9\xa1", b"ES: 1", b"ED: 0",
    b"\\..\\..\\P01-0080-icontour-manual.txt", b"P01-\xc2\xb2-icontour-manual.txt",
    b"..\\P01-" + b"0" * 300 + b"-icontour-manual.txt",
    b"P01-0080-icontour-\0.txt", b"P01-0080-icontour-manual.txt/..", b"/etc/passwd",
    b"C:P01-0080-icontour-manual.txt", b"p1,val",
    b"p1,dev", b"p9,train", b"p1", b"patient,patient", b'"p1', b",", b"\0",
]  # fmt: skip


def text_lines(b: bytes, r: random.Random) -> bytes:
    """For lists, contours, tables and Info.cfg."""
    lines = b.split(b"\n")
    at, odd = r.randrange(len(lines)), r.choice(LINES)
    kind = r.randrange(12)
    if kind < 4:
        lines[at] = odd
    elif kind == 4:
        lines.insert(at, odd)
    elif kind == 5:
        del lines[at]
    elif kind == 6:
        lines = lines[:at]
    elif kind == 7:
        lines += lines
    elif kind == 8:
        r.shuffle(lines)
    else:
        return [b.replace(b"\n", b"\r"), b.decode("latin1").encode("utf-16"), b.replace(b" ", b"\t")][kind - 9]
    return b"\n".join(lines)


# --- DICOM and MATLAB ---

DICOM_VALUES: dict[str, list[Any]] = {
    "Rows": [0, 1, 65535, 31, 65], "Columns": [0, 1, 65535, 27, 49], "BitsAllocated": [0, 1, 7, 8, 12, 16, 32, 64,
    65535],
    "BitsStored": [0, 1, 8, 12, 17, 65535], "HighBit": [0, 7, 65535], "PixelRepresentation": [0, 1, 2, 65535],
    "SamplesPerPixel": [0, 1, 3, 4, 65535], "NumberOfFrames": ["0", "1", "2", "-1", "99999999", "x"],
    "PhotometricInterpretation": ["RGB", "PALETTE COLOR", "MONOCHROME1", "YBR_FULL", "", "x" * 200],
    "PixelSpacing": ["1.5", "0\\0", "-1\\1", "nan\\nan", "inf\\1", "a\\b", "", "1\\2\\3", "1e-30\\1e-30", "1e30\\1",
    "1e400\\1"],
    "CardiacNumberOfImages": ["0", "-5", "abc", "1.5", "99999999999", "", "1\\2", "1", "nan"],
    "PlanarConfiguration": [0, 1, 2], "RescaleSlope": ["0", "nan", "x"],
}  # fmt: skip
SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5", "1.2.3"]


def dicom_fields(b: bytes, r: random.Random) -> bytes:
    file = pydicom.dcmread(io.BytesIO(b))
    values = {**DICOM_VALUES, "PixelData": [b"", b"\0", b"\0" * 10, file.PixelData[:-2], file.PixelData * 2]}
    name = r.choice(list(values))
    tag = tag_for_keyword(name)
    try:
        if r.random() < 0.1 and name in file:
            del file[tag]
        else:
            vr = r.choice(["UN", "LO", "DS", "IS", "OB"]) if r.random() < 0.1 else dictionary_VR(tag).split()[0]
            file[tag] = DataElement(tag, vr, r.choice(values[name]))
        if r.random() < 0.2:
            file.file_meta.TransferSyntaxUID = r.choice(SYNTAXES)
        out = io.BytesIO()
        pydicom.dcmwrite(out, file, enforce_file_format=False)
        return out.getvalue()
    except Exception:  # pydicom does not write everything that it reads
        return overwrite_head(b, r)


def hdf5_objects(b: bytes, r: random.Random) -> bytes:  # noqa: C901 (a kind a branch)
    """Objects of the MATLAB file replaced by odd ones."""
    content = io.BytesIO(b)
    with h5py.File(content, "r+") as f:
        field = r.choice(["Img", "SliceLocation", "TriggerTime", "EpiContours", "EndoContours"])
        refs, element = f"Dataset/{field}", f"#refs#/{field}0"
        kind = r.randrange(20)
        value = f[element][...]

        def put(new: Any) -> None:
            del f[element]
            f[element] = new
            f[refs][0, 0] = f[element].ref

        if kind < 8:
            del f[refs]
            if kind == 1:
                f.create_group(refs)
            elif kind == 2:
                f[refs] = np.zeros((1, 4))
            elif kind == 3:
                f[refs] = "text"
            elif kind == 4:
                f.create_dataset(refs, (0,), h5py.ref_dtype)
            elif kind == 5:
                f[refs] = h5py.SoftLink(f"/Dataset/{field}")
            elif kind == 6:
                f[refs] = h5py.ExternalLink("/etc/hostname", "/x")
            elif kind == 7:
                f.create_dataset(refs, (1, 2**40), h5py.ref_dtype, chunks=(1, 1024))
        elif kind == 8:
            f[refs][0, 0] = r.choice([h5py.Reference(), f["#refs#"].ref, f[refs].ref])
        elif kind == 9:
            del f[element]
            f.create_dataset(element, (2**20, 2**20, *value.shape[2:]), "f8", chunks=(1, 1, *value.shape[2:]))
            f[refs][0, 0] = f[element].ref
        elif kind == 10:
            put(value.astype(r.choice(["S4", complex, bool, "f2"])))
        elif kind == 11:
            f[element][...] = r.choice([np.nan, np.inf, -np.inf, 1e30, -1.0, 0.0])
        elif kind == 12:
            put(value.transpose())
        elif kind == 13:
            put(r.choice([value[:1], value[..., :1], value.ravel(), value[:0]]))
        elif kind == 14:
            del f["Dataset"]
            f["Dataset"] = np.zeros(3)
        elif kind == 15:
            del f["Dataset"]
        elif kind == 16:
            del f[element]
            f.create_dataset(element, value.shape, "f8", external=[("/etc/passwd", 0, value.size * 8)])
            f[refs][0, 0] = f[element].ref
        elif kind == 17:
            put(value * r.choice([-1, 0.5, 2]))
        else:
            put(np.zeros(r.choice([(1,), (1, 1, 1, 1), (2, 2, 2, 2), (1, 3, 0, 4)])))
    return content.getvalue()


# --- archives and checkpoints ---


def zip_members(b: bytes, r: random.Random) -> bytes:
    """A member changed, dropped, doubled, renamed or compressed; the rest with right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(b)) as old:
        infos = old.infolist()
        chosen, kind = r.choice(infos), r.randrange(8)
        with zipfile.ZipFile(out, "w") as new:
            for info in infos:
                data, name, method = old.read(info), info.filename, info.compress_type
                if info is chosen:
                    if kind == 0:
                        continue
                    if kind == 1:
                        new.writestr(name, data)
                    elif kind == 2:
                        name = r.choice(["../x", "x", "/etc/x", name + "\0", "archive/data/99"])
                    elif kind == 3:
                        method = zipfile.ZIP_DEFLATED if method == zipfile.ZIP_STORED else zipfile.ZIP_STORED
                    elif kind == 4:
                        data = bytes(r.choice([0, 1, 10_000_000]))
                    else:
                        data = r.choice(RAW)(data, r)
                new.writestr(name, data, method)
    return out.getvalue()


def npy_header(b: bytes, r: random.Random) -> bytes:
    """The header of an array in a ``.npz`` changed: shape, type, order, length."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(b)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        chosen = r.choice(old.namelist())
        for name in old.namelist():
            data = old.read(name)
            if name == chosen:
                n = struct.unpack("<H", data[8:10])[0]
                described = {
                    "descr": r.choice(["<f4", "|u1", "|O", "<U9999999", "<f8", "<c16", "|V8", "<M8[s]", ">f4", "|S0"]),
                    "fortran_order": r.choice([True, False]),
                    "shape": r.choice(
                        [(), (0,), (-1,), (2, 12, 10), (2**40,), (2**31, 2**31), (4096, 4096, 64), (1,) * 40, (2,)]
                    ),
                }
                text = repr(described).encode() if r.random() < 0.8 else r.choice(RAW)(data[10 : 10 + n], r)
                data = data[:8] + struct.pack("<H", len(text) % 65536) + text + data[10 + n :]
            new.writestr(name, data)
    return out.getvalue()


def safetensors_header(b: bytes, r: random.Random) -> bytes:  # noqa: C901 (a kind a branch)
    """The JSON header changed: lengths, offsets, shapes, types, names, and our own text in it."""
    n = int.from_bytes(b[:8], "little")
    head, rest = json.loads(b[8 : 8 + n]), b[8 + n :]
    names = [key for key in head if key != "__metadata__"]
    name, other, kind, text = r.choice(names), r.choice(names), r.randrange(14), None
    if kind == 0:
        return r.choice([0, 1, n + 1, n - 1, 2**31, 2**63, 2**64 - 1, 10**8]).to_bytes(8, "little") + b[8:]
    if kind == 1:
        head[name]["data_offsets"] = r.choice(
            [[0, 0], [0, 2**40], [-1, 4], [4, 0], [0, len(rest)], [0.5, 4], ["0"], [0]]
        )
    elif kind == 2:
        head[name]["shape"] = r.choice([[], [0], [-1], [2**62, 4], [2**32, 2**32], [1.5], ["4"], [1] * 70, None])
    elif kind == 3:
        kinds = [
            "F64",
            "F16",
            "BF16",
            "I8",
            "U8",
            "BOOL",
            "F8_E4M3",
            "F8_E5M2",
            "U16",
            "U32",
            "U64",
            "I64",
            "x",
            None,
            "C64",
        ]
        head[name]["dtype"] = r.choice(kinds)
    elif kind == 4:
        text = json.dumps(head)[:-1] + f', "{name}": ' + json.dumps(head[name]) + "}"
    elif kind == 5:
        head[r.choice(["", "a" * 10000, "..", "a.b.weight", "__metadata__x", "\u0000", "n"])] = head.pop(name)
    elif kind == 6:
        head["__metadata__"] = r.choice(
            [
                None,
                [],
                "x",
                {"prrmse": 3},
                *({"prrmse": x} for x in ("x", "[]", "{}", "null", "[" * 100_000)),
                {"a": {"b": 1}},
            ]
        )
    elif kind in (7, 8, 9) and "__metadata__" in head:
        inner = json.loads(head["__metadata__"]["prrmse"])
        if kind == 7:
            change_value(inner, r)
        else:
            key, value = r.choice([
                ("net", "x"), ("net", 3), ("net", "pspnet"), ("arguments", {"width": 100_000}), ("arguments",
                {"width": -1}),
                ("arguments", []), ("arguments", {"width": "2"}), ("arguments", {"width": 2, "in_channels": 2**40}),
                ("layers", []), ("layers", [{"kind": "W"}]), ("layers", 3), ("factory", "os:system"), ("seed", None),
                ("layers", [{**inner["layers"][0], "tensor": "nope"}]), ("names", {"x": ["y"]}), ("eps", "x"),
            ])  # fmt: skip
            inner[key] = value
        head["__metadata__"] = {"prrmse": json.dumps(inner)}
    elif kind == 10:
        text = "[" * 10**5
    elif kind == 11:
        text = json.dumps(head) + " " * r.choice([1, 100, 7])
    elif kind == 12:
        head[name]["data_offsets"], head[other]["data_offsets"] = (
            head[other]["data_offsets"],
            head[name]["data_offsets"],
        )
    else:
        rest = r.choice([rest[:-4], rest + b"\0" * 4, b"", flip(rest, r)])
    header = (json.dumps(head) if text is None else text).encode(errors="surrogatepass")
    return len(header).to_bytes(8, "little") + header + rest


def png_chunks(b: bytes, r: random.Random) -> bytes:
    """Fields of the first chunk changed, or the packed pixels; with right checksums."""
    x = bytearray(b)
    at, form, values = r.choice(
        [(16, ">I", EDGES), (20, ">I", EDGES), (24, ">B", range(20)), (25, ">B", range(8)), (28, ">B", [0, 1, 2])]
    )
    struct.pack_into(form, x, at, r.choice(list(values)) % (2**32 if form == ">I" else 256))
    struct.pack_into(">I", x, 29, zlib.crc32(bytes(x[12:29])))
    return bytes(x)


def ascii_header(b: bytes, r: random.Random) -> bytes:
    """Values in the text header of a MetaImage or NRRD."""
    end = b.find(b"\n\n") if b.startswith(b"NRRD") else b.find(b"LOCAL")
    lines = b[:end].split(b"\n")
    at = r.randrange(len(lines))
    key = lines[at].replace(b"=", b":").split(b":")[0]
    sign = b": " if b.startswith(b"NRRD") else b"= "
    odd = r.choice([b"", b"0", b"-1", b"nan", b"99999999999", b"3 3", b"1 1 1 1 1 1 1 1 1 1 1 1", b"x" * 5000, b"True",
                    b"MET_UCHAR",                     b"MET_OTHER", b"raw", b"gzip", b"LOCAL",
                    b"/etc/passwd", b"LIST", b"float", b"1e400",
                    b"\xff\xfe", b"(1,0) (0,1)"])  # fmt: skip
    if r.random() < 0.8:
        lines[at] = key + sign + odd
    else:
        lines.insert(at, lines[at] if r.random() < 0.5 else key + sign + odd)
    return b"\n".join(lines) + b[end:]


def odd_kind_of_file(path: Path, r: random.Random) -> str:
    """Replace a file by what is none: absent, a folder, a pipe, a link to itself, to a device, without permission."""
    import os

    kind = r.choice(["absent", "folder", "pipe", "loop", "endless", "unreadable", "dangling"])
    mode = path.stat().st_mode
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("loop", "endless", "dangling"):
        path.symlink_to({"loop": path, "endless": "/dev/zero", "dangling": "/nowhere/x"}[kind])
    elif kind == "unreadable":
        path.write_bytes(b"")
        path.chmod(mode & ~0o777)
    return kind
