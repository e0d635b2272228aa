"""Files of ``torch.save`` and ``pickle.dump``, read as data: no code of theirs is imported or run.

The pickle inside is read by `prrmse.nets.opcodes`; this module knows where torch keeps the numbers and which of the
recorded calls stand for tensors. Every size is checked against the file before anything is allocated, and a tensor's
numbers are read only when it is asked for: the state of an optimiser costs nothing.

The layouts are those of torch's ``serialization.py``: a zip with ``data.pkl`` and one record for each storage since
1.6, before that a sequence of pickles with the storages behind it; and plain pickles, of tensors or NumPy arrays.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import torch

from prrmse.nets.opcodes import CallRecord, Global, NotReadableError, OtherFormatError, Persistent, read_pickle

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

# What a state may hold; float8 and 16-bit integers only as far as this torch has them.
NUMBERS = {
    f"torch.{name}": getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
        "float8_e5m2fnuz", "float8_e8m0fnu", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64",
        "bool",
    )
    if hasattr(torch, name)
}  # fmt: skip
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
    "UntypedStorage": torch.uint8,
    "_UntypedStorage": torch.uint8,
}
NUMPY_NUMBERS = {"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"}

# Calls that give a tensor, or wrap a call that does (with the place of that argument).
DENSE = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"}
WRAPPED = {
    "torch._utils._rebuild_parameter": 0,
    "torch._utils._rebuild_parameter_with_state": 0,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": 0,
    "torch._utils._rebuild_device_tensor_from_numpy": 0,
    "torch._utils._rebuild_xla_tensor": 0,
}
SUBCLASSED = {"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"}
ARRAYS = {f"{core}.multiarray._reconstruct" for core in ("numpy.core", "numpy._core")}
BUFFERS = {f"{core}.numeric._frombuffer" for core in ("numpy.core", "numpy._core")}
REFUSED = {
    "torch._utils._rebuild_sparse_tensor": "is sparse",
    "torch._utils._rebuild_sparse_csr_tensor": "is sparse",
    "torch._utils._rebuild_qtensor": "is quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "is on the device meta, without numbers",
    "torch._utils._rebuild_nested_tensor": "is nested",
    "torch._utils._rebuild_wrapper_subclass": "is of a class that holds no numbers of its own",
    "torch.distributed.tensor.DTensor": "is a part of a distributed tensor",
}
TENSORS = DENSE | WRAPPED.keys() | SUBCLASSED | ARRAYS | BUFFERS | REFUSED.keys()
# Beside tensors, what torch and NumPy write of themselves.
KNOWN = TENSORS | NUMBERS.keys() | {
    "torch.Size", "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.serialization._get_layout",
    "torch.storage._load_from_bytes", "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar", "collections.OrderedDict", "collections.defaultdict", "collections.Counter",
    "builtins.dict", "builtins.list", "builtins.set", "builtins.bytearray", "_codecs.encode", "__builtin__.set",
}  # fmt: skip
# What zipfile raises for damaged files; RuntimeError for encrypted ones.
ZIP_ERRORS = (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, EOFError, ValueError, OverflowError)
MOST_DIMENSIONS = 16
LARGEST_NUMBER = 2**48  # of a size, stride or offset; torch counts with 64 bits
# A view can repeat its numbers (stride 0). Beyond this many bytes it is refused, since every copy allocates them all.
LARGEST_REPETITION = 2**26
DEEPEST = 8


class TensorError(ValueError):
    """A tensor cannot be taken; the message completes "the tensor ..."."""


class TorchFile:
    """An open file of torch or pickle.

    Attributes:
        tree: what the file holds, as dicts, lists, tuples, numbers, text, and records of what was not made.
        names: functions and classes that loading it with Python's unpickler would import.
    """

    tree: object
    names: set[str]

    def __init__(self, file: IO[bytes], size: int, *, inner: bool = False) -> None:
        """Read the structure, none of the numbers.

        Args:
            file: opened for reading, at its first byte; it must stay open.
            size: of the file, bytes.
            inner: the file is itself stored in a pickle; it must not hold another one.

        Raises:
            NotReadableError: damaged, or of another format.
        """
        self._file, self._size, self._inner = file, size, inner
        self._archive: zipfile.ZipFile | None = None
        self._records: dict[str, zipfile.ZipInfo] = {}
        self._places: dict[str, int] = {}
        self._read: dict[str, torch.Tensor] = {}
        start = file.read(4)
        file.seek(0)
        try:
            if start == b"PK\x03\x04":
                self._open_zip()
            else:
                self._open_stream()
        except NotReadableError:
            raise
        except (*ZIP_ERRORS, struct.error) as e:
            raise NotReadableError(str(e)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _open_zip(self) -> None:
        self._archive = zipfile.ZipFile(self._file)
        infos = self._archive.infolist()
        names = [info.filename for info in infos]
        if len(set(names)) < len(names):
            raise NotReadableError("two records of one name")
        pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise OtherFormatError("a zip file, but not one of torch.save (it has no data.pkl, or several)")
        root = pickles[0].removesuffix("data.pkl")
        if any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in names):
            raise OtherFormatError("a TorchScript program; load it where you trust it and save its state_dict()")
        if any(info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size for info in infos):
            raise OtherFormatError(
                "a zip file with compressed records, which torch.save never writes; store them plain"
            )
        if sum(info.file_size for info in infos) > self._size:
            raise NotReadableError("its records are larger than the file")
        if not any(info.CRC for info in infos):  # torch.serialization.set_crc32_options(False): none was computed
            for info in infos:
                info.CRC = None  # type: ignore[assignment]
        self._records = {info.filename.removeprefix(root): info for info in infos if info.filename.startswith(root)}
        if "byteorder" in self._records and self._record("byteorder") != b"little":
            raise OtherFormatError("written on a big-endian machine; save it as safetensors there")
        content = self._record("data.pkl")
        self.tree, _, self.names = read_pickle(io.BytesIO(content), len(content))

    def _record(self, name: str) -> bytes:
        info = self._records.get(name)
        if info is None or self._archive is None:
            raise NotReadableError(f"its record {name[:40]} is missing")
        try:
            return self._archive.read(info)
        except ZIP_ERRORS as e:
            raise NotReadableError(str(e)) from None

    def _open_stream(self) -> None:
        self.tree, outside, self.names = read_pickle(self._file, self._size)
        if not (isinstance(self.tree, int) and self.tree == LEGACY_MAGIC):
            return
        protocol = read_pickle(self._file, self._size).tree
        system = read_pickle(self._file, self._size).tree
        if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise OtherFormatError(
                "of an unknown version of torch, or a big-endian machine; save it as safetensors there"
            )
        self.tree, outside, self.names = read_pickle(self._file, self._size)
        keys = read_pickle(self._file, self._size).tree
        described = dict(_described(x) for x in outside if not _is_class(x))
        place = self._file.tell()
        for key in keys if isinstance(keys, list) else []:
            if not isinstance(key, str) or key not in described:
                raise NotReadableError("a storage that no tensor names")
            dtype, count = described[key]
            self._file.seek(place)
            if struct.unpack("<q", self._file.read(8)) != (count,):
                raise NotReadableError(f"storage {key[:40]} has another size than its tensors say")
            self._places[key] = place + 8
            place += 8 + count * dtype.itemsize
        if place > self._size:
            raise NotReadableError("it ends within its tensors")

    def foreign_names(self) -> list[str]:
        """What it names beside the tensors, arrays and plain containers that this module knows; sorted."""
        return sorted(name for name in self.names if name not in KNOWN and name.rpartition(".")[2] not in STORAGES)

    def is_tensor(self, node: object) -> bool:
        """Whether a node of the tree stands for a tensor or an array; be it one that `tensor` refuses."""
        return isinstance(node, CallRecord) and node.path in TENSORS

    def tensor(self, node: object) -> torch.Tensor:
        """The tensor that a node stands for, on the CPU; nodes of one storage share their memory.

        Raises:
            TensorError: it is not a dense real tensor, or lies outside of its storage.
            NotReadableError: its numbers are damaged or missing.
        """
        for _ in range(DEEPEST):
            if not isinstance(node, CallRecord) or not isinstance(node.arguments, tuple):
                break
            arguments = node.arguments
            if node.path in REFUSED:
                raise TensorError(REFUSED[node.path])
            if node.path in WRAPPED and arguments:
                node = arguments[WRAPPED[node.path]]
            elif node.path in SUBCLASSED and len(arguments) > 2:  # the function, the class, the function's arguments
                node = CallRecord(arguments[0], arguments[2])
            elif node.path in DENSE and len(arguments) >= 4:
                return self._dense(node.path, arguments)
            elif node.path in ARRAYS:
                return _array(node.state)
            elif node.path in BUFFERS and len(arguments) == 4:
                content, dtype, shape, order = arguments
                return _array((1, shape, dtype, order == "F", content))
            else:
                break
        raise TensorError("is described in a way that torch does not use")

    def _dense(self, path: str, arguments: tuple[object, ...]) -> torch.Tensor:
        reference, offset, size, stride = arguments[:4]
        storage = self._storage(reference)
        rest = arguments[6:]
        if path.endswith("_v3"):
            dtype = NUMBERS.get(rest[0].path) if rest and isinstance(rest[0], Global) else None
            if dtype is None:
                raise TensorError("is of an unknown type of number")
            if storage.nbytes % dtype.itemsize:
                raise TensorError("has a storage that its type of number does not divide")
            storage, rest = storage.view(dtype), rest[1:]
        if any(rest):
            raise TensorError("is a conjugate or negative view")
        sizes, strides = _whole_numbers(size), _whole_numbers(stride)
        (start,) = _whole_numbers((offset,))
        if len(sizes) != len(strides) or len(sizes) > MOST_DIMENSIONS:
            raise TensorError(f"has {len(sizes)} sizes and {len(strides)} strides")
        count = math.prod(sizes)
        last = start + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
        if count and last >= storage.numel():
            raise TensorError(f"reaches beyond its storage (element {last} of {storage.numel()})")
        if count > storage.numel() and count * storage.itemsize > LARGEST_REPETITION:
            raise TensorError(f"repeats {storage.numel()} numbers as {count}")
        if not count and math.prod(n or 1 for n in sizes) >= LARGEST_NUMBER:
            raise TensorError(f"has the sizes {sizes}")
        return storage.as_strided(sizes, strides, start) if count else storage.new_empty(sizes)

    def _storage(self, node: object) -> torch.Tensor:
        """All numbers of a storage, one-dimensional."""
        if isinstance(node, CallRecord) and node.path == "torch.storage._load_from_bytes" and not self._inner:
            match node.arguments:  # how pickle itself stores a tensor: as a file of torch in its bytes
                case (content,) if isinstance(data := _bytes(content), bytes):
                    inner = TorchFile(io.BytesIO(data), len(data), inner=True)
                    return inner._storage(inner.tree)
        if not isinstance(node, Persistent):
            raise TensorError("has no storage in this file")
        key, (dtype, count) = _described(node)
        if dtype not in NUMBERS.values():
            raise TensorError(f"has numbers of type {str(dtype).removeprefix('torch.')}")
        if key not in self._read:
            self._read[key] = self._numbers(key, dtype, count)
        found = self._read[key]
        if found.dtype != dtype or found.numel() != count:
            raise TensorError("shares a storage that another one describes differently")
        return found

    def _numbers(self, key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        length = count * dtype.itemsize
        if self._archive is not None:
            info = self._records.get(f"data/{key}")
            if info is None or info.file_size < length:
                raise TensorError(f"has a storage of {length} bytes, the file {info.file_size if info else 0} of it")
            content = self._record(f"data/{key}")
        elif key in self._places:
            self._file.seek(self._places[key])
            content = self._file.read(length)
        else:
            raise TensorError("has no storage in this file")
        return torch.frombuffer(bytearray(content), dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _is_class(reference: Persistent) -> bool:
    """Whether it is the class of a network with its source code, as files before torch 1.6 have it."""
    return isinstance(reference.key, tuple) and reference.key[:1] == ("module",)


def _described(reference: Persistent) -> tuple[str, tuple[torch.dtype, int]]:
    """Key, type and number of elements of a reference to a storage."""
    match reference.key:
        case (b"storage" | "storage", Global(path), str(key), _, int(count), *rest) if not any(rest) and count >= 0:
            dtype = STORAGES.get(path.rpartition(".")[2])
            if dtype is not None:
                return key, (dtype, count)
    raise NotReadableError("a reference to something that is no storage")


def _whole_numbers(values: object) -> tuple[int, ...]:
    if isinstance(values, CallRecord) and values.path == "torch.Size":
        values = values.arguments[0] if isinstance(values.arguments, tuple) and values.arguments else None
    if not isinstance(values, tuple | list):
        raise TensorError("has no sizes or strides")
    found = tuple(value for value in values if type(value) is int)
    if len(found) < len(values) or min(found, default=0) < 0 or max(found, default=0) >= LARGEST_NUMBER:
        raise TensorError("has sizes or strides that are negative, too large or no whole numbers")
    return found


def _array(state: object) -> torch.Tensor:
    """A NumPy array by the state that it pickles: version, shape, dtype, whether in Fortran's order, bytes."""
    match state:
        case (_, shape, CallRecord(arguments=(str(code), *_)) as dtype, order, content) if dtype.path == "numpy.dtype":
            sizes, data = _whole_numbers(shape), _bytes(content)
            big = isinstance(dtype.state, tuple) and len(dtype.state) > 1 and dtype.state[1] == ">"
            if code not in NUMPY_NUMBERS or data is None:
                raise TensorError("is a NumPy array of something else than real numbers")
            kind = np.dtype(code).newbyteorder(">" if big else "<")
            if len(sizes) > MOST_DIMENSIONS or len(data) != math.prod(sizes) * kind.itemsize:
                raise TensorError(f"is a NumPy array of {len(data)} bytes for the shape {sizes[:MOST_DIMENSIONS]}")
            flat = np.frombuffer(data, kind).astype(np.dtype(code))  # a writable copy in this machine's order
            return torch.from_numpy(flat.reshape(sizes, order="F" if order is True else "C")).contiguous()
    raise TensorError("is a NumPy array described in a way that NumPy does not use")


def _bytes(node: object) -> bytes | None:
    """Bytes, also as pickle's protocols up to 2 write them: as text that is to be encoded."""
    match node:
        case bytes() | bytearray():
            return bytes(node)
        case CallRecord(arguments=(str(text), "latin1" | "latin-1")) if node.path == "_codecs.encode":
            try:
                return text.encode("latin-1")
            except UnicodeError:
                return None
        case CallRecord(arguments=()) if node.path in ("builtins.bytes", "__builtin__.bytes"):
            return b""
        case CallRecord(arguments=(inner, *_)) if node.path in ("builtins.bytearray", "__builtin__.bytearray"):
            return _bytes(inner) if not isinstance(inner, CallRecord) or inner.path == "_codecs.encode" else None
    return None


def open_torch_file(path: Path) -> TorchFile:
    """`TorchFile` of a path; close it after use (it is a context).

    Raises:
        OSError: the file cannot be opened.
        NotReadableError: as `TorchFile`.
    """
    file = path.open("rb")
    try:
        return TorchFile(file, path.stat().st_size)
    except BaseException:
        file.close()
        raise
