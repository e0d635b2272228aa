"""Files that run code, exhaust memory or crash where they are loaded without care; and what happens if they are.

The techniques are those that the scanners fickling and picklescan look for, and what their advisories describe. Each
payload creates a witness file. ``python tests/malice.py`` prints how many files there are.
"""

from __future__ import annotations

import contextlib
import io
import marshal
import pickle
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

MARK, TUPLE, REDUCE, STOP, POP = b"(", b"t", b"R", b".", b"0"


class Name(NamedTuple):
    """A function or class, for `asm`."""

    module: str
    name: str


class Call(NamedTuple):
    """A call by REDUCE, for `asm`; the function may itself be the result of a call."""

    function: object
    arguments: tuple[object, ...]


def asm(value: object) -> bytes:
    """Opcodes that push a value."""
    match value:
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return asm(function) + asm(tuple(arguments)) + REDUCE
        case bool() | None:
            return {True: b"\x88", False: b"\x89", None: b"N"}[value]
        case int():
            data = value.to_bytes(9, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return MARK + b"".join(map(asm, value)) + TUPLE
        case list():
            return b"]" + MARK + b"".join(map(asm, value)) + b"e"
        case dict():
            return b"}" + MARK + b"".join(asm(k) + asm(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def program(opcodes: bytes, protocol: int = 4) -> bytes:
    return b"\x80" + bytes([protocol]) + opcodes + STOP


def torch_zip(pickled: bytes, records: dict[str, bytes] | None = None) -> bytes:
    """A file as ``torch.save`` lays it out, around any pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        for name, data in ({"data/0": bytes(16)} if records is None else records).items():
            archive.writestr(f"archive/{name}", data)
    return content.getvalue()


def torch_stream(pickled: bytes, keys: bytes, *, magic: bytes | None = None, system: bytes | None = None) -> bytes:
    """A file as ``torch.save`` laid it out before torch 1.6."""
    start = magic or pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    about = system or pickle.dumps({"little_endian": True, "protocol_version": 1001, "type_sizes": {}}, 2)
    return start + pickle.dumps(1001, 2) + about + pickled + keys + struct.pack("<q", 4) + bytes(16)


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    return asm(("storage", Name("torch", kind), key, "cpu", count)) + b"Q"


def tensor(size: object = (4,), stride: object = (1,), offset: object = 0, stored: bytes | None = None) -> bytes:
    rest = asm(False) + asm(Call(Name("collections", "OrderedDict"), ()))
    inside = (stored or storage()) + asm(offset) + asm(size) + asm(stride) + rest
    return asm(Name("torch._utils", "_rebuild_tensor_v2")) + MARK + inside + TUPLE + REDUCE


def state(extra: bytes = b"", weight: bytes | None = None) -> bytes:
    """Opcodes of ``{"state_dict": {"conv.weight": ...}, "extra": ...}``."""
    inner = b"}" + asm("conv.weight") + (weight or tensor()) + b"s"
    return b"}" + asm("state_dict") + inner + b"s" + (asm("extra") + extra + b"s" if extra else b"")


def techniques(witness: Path) -> dict[str, bytes]:
    """Opcodes, by name, that create the witness when Python's unpickler meets them."""
    path, touch, python = str(witness), f"touch {witness}", f"open({str(witness)!r}, 'w')"
    system, code = Name("os", "system"), Call(Name("builtins", "compile"), (python, "x", "exec"))
    evil = program(asm(Call(system, (touch,))))
    other = witness.with_suffix(".inner")
    other.write_bytes(evil)
    function = marshal.dumps(compile(python, "x", "exec"))
    module = Call(Name("importlib", "import_module"), ("os",))
    interpreter = Call(Name("code", "InteractiveInterpreter"), ())
    calls: dict[str, Call] = {
        "os.system": Call(system, (touch,)),
        "os.popen": Call(Call(Name("builtins", "getattr"), (Call(Name("os", "popen"), (touch,)), "read")), ()),
        "os.mkdir": Call(Name("os", "mkdir"), (path,)),
        "os.spawnvp": Call(Name("os", "spawnvp"), (0, "touch", ["touch", path])),
        "posix.system": Call(Name("posix", "system"), (touch,)),
        "subprocess.call": Call(Name("subprocess", "call"), (["touch", path],)),
        "subprocess.run": Call(Name("subprocess", "run"), (["touch", path],)),
        "subprocess.check_output": Call(Name("subprocess", "check_output"), (["touch", path],)),
        "subprocess.getoutput": Call(Name("subprocess", "getoutput"), (touch,)),
        "builtins.eval": Call(Name("builtins", "eval"), (python,)),
        "builtins.exec": Call(Name("builtins", "exec"), (python,)),
        "builtins.open": Call(Name("builtins", "open"), (path, "w")),
        "compile and exec": Call(Name("builtins", "exec"), (code,)),
        "runpy._run_code": Call(Name("runpy", "_run_code"), (code, {})),
        "import_module and getattr": Call(Call(Name("builtins", "getattr"), (module, "system")), (touch,)),
        "__import__": Call(
            Call(Name("builtins", "getattr"), (Call(Name("builtins", "__import__"), ("os",)), "system")), (touch,)
        ),
        "methodcaller": Call(Call(Name("operator", "methodcaller"), ("system", touch)), (module,)),
        "functools.partial": Call(Call(Name("functools", "partial"), (system, touch)), ()),
        "map": Call(Name("builtins", "list"), (Call(Name("builtins", "map"), (system, [touch])),)),
        "pkgutil.resolve_name": Call(Call(Name("pkgutil", "resolve_name"), ("os:system",)), (touch,)),
        "pydoc.locate": Call(Call(Name("pydoc", "locate"), ("os.system",)), (touch,)),
        "pydoc.pipepager": Call(Name("pydoc", "pipepager"), ("x", f"cat > {path}")),
        "pickle.loads": Call(Name("pickle", "loads"), (evil,)),
        "_pickle.loads": Call(Name("_pickle", "loads"), (evil,)),
        "cloudpickle.loads": Call(Name("cloudpickle", "loads"), (evil,)),
        "torch.storage._load_from_bytes": Call(Name("torch.storage", "_load_from_bytes"), (torch_zip(evil),)),
        "torch.utils.collect_env.run": Call(Name("torch.utils.collect_env", "run"), (touch,)),
        "torch.jit execWrapper": Call(Name("torch.jit.unsupported_tensor_ops", "execWrapper"), (python, {}, {})),
        "pandas.read_pickle": Call(Name("pandas", "read_pickle"), (str(other),)),
        "numpy.load": Call(Name("numpy", "load"), (str(other), None, True)),
        "joblib.load": Call(Name("joblib", "load"), (str(other),)),
        "numpy.testing runstring": Call(Name("numpy.testing._private.utils", "runstring"), (python, {})),
        "numpy.f2py": Call(Name("numpy.f2py.crackfortran", "myeval"), (python, {}, {})),
        "pip": Call(Name("pip._internal.cli.main", "main"), (["--log", path, "--isolated", "config", "list"],)),
        "ensurepip": Call(Name("ensurepip", "_run_pip"), (["--log", path, "--isolated", "config", "list"],)),
        "timeit": Call(Name("timeit", "timeit"), (python, "pass", Name("time", "perf_counter"), 1)),
        "cProfile": Call(Name("cProfile", "run"), (python,)),
        "profile": Call(Name("profile", "run"), (python,)),
        "bdb": Call(Call(Name("builtins", "getattr"), (Call(Name("bdb", "Bdb"), ()), "run")), (python,)),
        "trace": Call(Call(Name("builtins", "getattr"), (Call(Name("trace", "Trace"), ()), "run")), (python,)),
        "code interpreter": Call(Call(Name("builtins", "getattr"), (interpreter, "runsource")), (python,)),
        "ctypes": Call(Call(Name("builtins", "getattr"), (Call(Name("ctypes", "CDLL"), (None,)), "system")), (
            touch.encode(),)),
        "marshal": Call(Call(Name("types", "FunctionType"), (Call(Name("marshal", "loads"), (function,)), {
            "open": Name("builtins", "open")})), ()),
        "shutil.copyfile": Call(Name("shutil", "copyfile"), (str(other), path)),
        "pathlib": Call(Name("pathlib", "Path.touch"), (Call(Name("pathlib", "Path"), (path,)),)),
        "FileIO": Call(Name("_io", "FileIO"), (path, "w")),
        "logging.FileHandler": Call(Name("logging", "FileHandler"), (path,)),
        "sqlite3": Call(Name("sqlite3", "connect"), (path,)),
        "urllib": Call(Name("urllib.request", "urlretrieve"), (f"file://{other}", path)),
        "uuid": Call(Name("uuid", "_get_command_stdout"), ("touch", path)),
        "imaplib": Call(Name("imaplib", "IMAP4_stream"), (touch,)),
        "pty.spawn": Call(Name("pty", "spawn"), (["touch", path],)),
        "yaml": Call(Name("yaml", "unsafe_load"), (f"!!python/object/apply:os.system [{touch}]",)),
        "multiprocessing": Call(Name("multiprocessing.util", "spawnv_passfds"), (b"/bin/touch", ["touch", path], ())),
    }  # fmt: skip
    found = {name: asm(call) for name, call in calls.items()}
    chain = Call(Call(Call(Name("operator", "attrgetter"), ("system",)), (module,)), (touch,))
    loose = Call(Name("functools", "partial"), (Name("builtins", "print"),))
    text = asm(touch)
    return found | {
        "attrgetter chain": asm(chain),
        "INST": MARK + text + b"ios\nsystem\n",
        "OBJ": MARK + asm(Name("subprocess", "Popen")) + asm(["touch", path]) + b"o",
        "NEWOBJ": asm(Name("_io", "FileIO")) + asm(()) + b"\x81" + asm(Call(system, (touch,))) + b"b0" + b"N",
        "NEWOBJ_EX": asm(Name("datetime", "timedelta")) + asm(()) + b"}" + b"\x92" + POP + asm(Call(system, (touch,))),
        "STACK_GLOBAL": asm("os") + asm("system") + b"\x93" + MARK + text + TUPLE + REDUCE,
        "STACK_GLOBAL of memo": asm("system") + b"\x94" + POP + asm("os") + b"h\x00\x93" + MARK + text + TUPLE + REDUCE,
        "torch.load": asm(loose) + asm((Name("torch", "load"), (str(other),), {"weights_only": False}, {})) + b"b" +
        asm(()) + REDUCE,
        "BUILD": asm(loose) + asm((system, (touch,), {}, {})) + b"b" + asm(()) + REDUCE,
        "dropped result": asm(Call(system, (touch,))) + POP + b"}",
        "in a key": b"}" + asm(Call(system, (touch,))) + b"Ns",
        "in a list": b"]" + asm(Call(system, (touch,))) + b"a",
        "in a set": b"\x8f" + MARK + asm(Call(system, (touch,))) + b"\x90",
        "duplicated": asm(system) + b"2" + asm((touch,)) + REDUCE + POP + POP + b"N",
    }  # fmt: skip


def ordinary(witness: Path) -> dict[str, bytes]:
    """Each technique as a plain pickle: a control, since Python's unpickler creates the witness from each."""
    return {name: program(opcodes) for name, opcodes in techniques(witness).items()}


def hidden(witness: Path) -> dict[str, bytes]:
    """File names and contents: each technique in a file of torch, and other ways to hide code."""
    found = {
        f"{number:02d}-{name.replace(' ', '_')}.pth": torch_zip(program(state(opcodes), 2))
        for number, (name, opcodes) in enumerate(techniques(witness).items())
    }
    call = techniques(witness)["os.system"]
    evil, harmless = program(call), program(state(), 2)
    sized = pickle.dumps(["0"], 2)
    good = torch_zip(harmless)
    inner = b"}" + asm("conv.weight") + tensor() + b"s"
    return found | {
        "extension_opcode.pth": torch_zip(program(state(b"\x82\x01" + asm((f"touch {witness}",)) + REDUCE))),
        "python_2_names.pkl": program(asm(Call(Name("__builtin__", "eval"), (f"open({str(witness)!r}, 'w')",))), 2),
        "protocol_0.pkl": f"cos\nsystem\n(V{f'touch {witness}'}\ntR.".encode(),
        "stacked.pkl": harmless + evil,
        "stacked_first.pkl": evil + harmless,
        "no_stop.pkl": program(call)[:-1],
        "no_stop.pth": torch_zip(program(call)[:-1]),
        "frame_too_long.pkl": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + call + STOP,
        "frame_too_short.pkl": b"\x80\x04\x95" + struct.pack("<Q", 3) + call + STOP,
        "protocol_255.pkl": b"\x80\xff" + call + STOP,
        "in_weight.pth": torch_zip(program(state(weight=call), 2)),
        "in_size.pth": torch_zip(program(b"}" + asm("w") + asm(Name("torch._utils", "_rebuild_tensor_v2")) + MARK +
                                         storage() + asm(0) + call + asm((1,)) + TUPLE + REDUCE + b"s", 2)),
        "in_persistent_id.pth": torch_zip(program(call + b"Q", 2)),
        "in_persistent_id_text.pkl": b"Pos.system\n.",
        "in_hooks.pth": torch_zip(program(b"}" + asm("w") + asm(Name("torch._utils", "_rebuild_parameter")) + MARK +
                                          tensor() + asm(True) + call + TUPLE + REDUCE + b"s", 2)),
        "in_subclass.pth": torch_zip(program(b"}" + asm("w") + asm(Name("torch._tensor", "_rebuild_from_type_v2")) +
                                             MARK + asm(Name("os", "system")) + asm(Name("torch", "Tensor")) +
                                             asm((f"touch {witness}",)) + b"}" + TUPLE + REDUCE + b"s", 2)),
        "in_metadata.pth": torch_zip(program(inner + b"}" + asm("_metadata") + call + b"sb", 2)),
        "in_numpy.pth": torch_zip(program(b"}" + asm("w") + asm(Call(Name("numpy.core.multiarray", "_reconstruct"), (
            Name("numpy", "ndarray"), (0,), b"b"))) + MARK + asm(1) + asm((1,)) + call + asm(False) + asm(b"1234") +
            TUPLE + b"b" + b"s", 2)),
        "numpy_objects.npy": _numpy(b"\x93NUMPY", evil),
        "numpy_objects.npz": _zip({"a.npy": _numpy(b"\x93NUMPY", evil)}),
        "stream.pth": torch_stream(program(call), sized),
        "stream_with_state.pth": torch_stream(program(state(call), 2), sized),
        "stream_magic.pth": torch_stream(harmless, sized, magic=program(call)),
        "stream_system.pth": torch_stream(harmless, sized, system=program(call)),
        "stream_keys.pth": torch_stream(harmless, program(call)),
        "tar.pth": _tar({"pickle": evil, "storages": evil, "tensors": evil, "sys_info": evil}),
        "jit.pt": _zip({"m/data.pkl": evil, "m/constants.pkl": evil, "m/code/__torch__.py": b"", "m/version": b"3"}),
        "package.pt": _zip({"p/.data/extern_modules": b"os", "p/model/model.pkl": evil, "p/data.pkl": evil}),
        "two_pickles.pth": _zip({"a/data.pkl": harmless, "b/data.pkl": evil}),
        "same_name_twice.pth": _zip({"a/data.pkl": harmless, "a/data.pk1": evil}).replace(b"data.pk1", b"data.pkl"),
        "wrong_checksum.pth": good.replace(harmless, program(state(asm("x" * 9)), 2)[: len(harmless)].ljust(
            len(harmless), b"."), 1),
        "header_names_differ.pth": good.replace(b"archive/data.pkl", b"archive/dat0.pkl", 1),
        "encrypted_flag.pth": _patched(torch_zip(evil), b"PK\x01\x02", 8, 1),
        "encrypted_flag_of_state.pth": _patched(good, b"PK\x01\x02", 8, 1),
        "no_directory.pth": torch_zip(evil)[:-40],
        "seven_zip.pth": b"7z\xbc\xaf\x27\x1c\x00\x04" + evil,
        "gzip.pth": zlib.compress(evil, wbits=31),
        "pickle_then_zip.pth": evil + good,
        "zip_then_pickle.pth": good + evil,
        "plain.safetensors": evil,
        "zip.safetensors": torch_zip(program(state(call), 2)),
        "header_then_pickle.safetensors": struct.pack("<Q", 2) + b"{}" + evil,
        "header_of_code.safetensors": struct.pack("<Q", len(evil)) + evil,
        "pickle.bin": evil,
        "picture.png": evil,
        "no_ending": torch_zip(evil),
    }  # fmt: skip


def exhausting() -> dict[str, bytes]:
    """Small files that ask for much memory or time, or for memory that is not theirs; none runs code."""
    torch_utils, huge = "torch._utils", 2**43
    csr = Call(Name(torch_utils, "_rebuild_sparse_csr_tensor"), (Call(Name("torch.serialization", "_get_layout"), (
        "torch.sparse_csr",)), ((0, 2**40), (5,), (1.0).hex(), (2, 2))))  # fmt: skip
    coo = Call(Name(torch_utils, "_rebuild_sparse_tensor"), (0, ((2**40,), (1,), (2,))))
    meta = Call(Name(torch_utils, "_rebuild_meta_tensor_no_storage"), (Name("torch", "float32"), (huge,), (1,), False))
    wrapper = Call(Name(torch_utils, "_rebuild_wrapper_subclass"), (Name("torch", "Tensor"), Name("torch", "float32")))
    quantised = Call(Name(torch_utils, "_rebuild_qtensor"), (0, 0, (4,), (1,), (), False, {}))

    def weight(opcodes: bytes, records: dict[str, bytes] | None = None) -> bytes:
        return torch_zip(program(state(weight=opcodes), 2), records)

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program(state(weight=tensor((2**26,), stored=storage(count=2**26))), 2))
        archive.writestr("archive/data/0", bytes(2**28))
    itself = b"}" + b"q\x00" + asm("state_dict") + b"h\x00s"
    laughs = asm("ha") + b"".join(b"q" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"\x87\x87\x87\x87" for i in range(40))
    return {
        "sparse_csr_out_of_bounds.pth": weight(asm(csr)),
        "sparse_out_of_bounds.pth": weight(asm(coo)),
        "meta.pth": weight(asm(meta)),
        "wrapper_subclass.pth": weight(asm(wrapper)),
        "quantised.pth": weight(asm(quantised)),
        "quantised_storage.pth": weight(tensor(stored=storage("QInt8Storage"))),
        "complex.pth": weight(tensor((2,), stored=storage("ComplexFloatStorage", count=2))),
        "unknown_storage.pth": weight(tensor(stored=storage("SystemStorage"))),
        "size_beyond_storage.pth": weight(tensor((5,))),
        "offset_beyond_storage.pth": weight(tensor(offset=1)),
        "stride_beyond_storage.pth": weight(tensor((2,), (4,))),
        "negative_offset.pth": weight(tensor(offset=-1)),
        "negative_size.pth": weight(tensor((-4,))),
        "negative_stride.pth": weight(tensor((4,), (-1,), 3)),
        "overflowing_size.pth": weight(tensor((2**32, 2**32), (1, 1))),
        "overflowing_stride.pth": weight(tensor((2, 2), (2**63 - 1, 1))),
        "overflowing_empty.pth": weight(tensor((0, 2**47, 2**47), (1, 1, 1))),
        "eight_terabytes_of_storage.pth": weight(tensor((huge // 4,), stored=storage(count=huge // 4))),
        "eight_terabytes_repeated.pth": weight(tensor((huge // 4,), (0,))),
        "fewer_bytes_than_claimed.pth": weight(tensor(), {"data/0": bytes(15)}),
        "missing_record.pth": weight(tensor(), {}),
        "sizes_of_text.pth": weight(tensor(("4",))),
        "sizes_of_truth.pth": weight(tensor((True,))),
        "sizes_of_numbers.pth": weight(tensor(4)),
        "thousand_dimensions.pth": weight(tensor((1,) * 1000, (1,) * 1000)),
        "FloatTensor.pth": weight(asm(Call(Name("torch", "FloatTensor"), (huge,)))),
        "bytearray.pth": torch_zip(program(state(asm(Call(Name("builtins", "bytearray"), (huge,)))), 2)),
        "bytes_of_claimed_length.pkl": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x",
        "text_of_claimed_length.pkl": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x",
        "bytearray_of_claimed_length.pkl": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x",
        "memo_of_claimed_length.pkl": b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + STOP,
        "long_number.pkl": b"L" + b"9" * 100_000 + b"L\n.",
        "zip_bomb.pth": bomb.getvalue(),
        "deep_tuple.pkl": program(b")" + b"\x85" * 1_000_000),
        "deep_tuple_as_key.pkl": program(b"}" + b")" + b"\x85" * 1_000_000 + b"Ns"),
        "deep_tuple_in_set.pkl": program(b"\x8f" + MARK + b")" + b"\x85" * 1_000_000 + b"\x90"),
        "deep_list.pkl": program(b"]" * 200_000 + b"a" * 199_999),
        "deep_dict.pkl": program((b"}" + asm("model")) * 100_000 + tensor() + b"s" * 100_000),
        "deep_parameter.pth": weight((asm(Name(torch_utils, "_rebuild_parameter")) + MARK) * 50_000 + tensor() +
                                     (asm(True) + asm({}) + TUPLE + REDUCE) * 50_000),
        "laughs.pkl": program(laughs),
        "state_that_holds_itself.pth": torch_zip(program(itself, 2)),
        "network_that_holds_itself.pth": torch_zip(program(
            asm(Call(Name("a", "Net"), ())) + b"q\x00}" + asm("_modules") + b"}" + asm("x") + b"h\x00ssb", 2)),
        "network_of_doublings.pth": torch_zip(program(_doublings(60), 2)),
        "too_many_opcodes.pkl": program(b"}" + b"0}" * 2_600_000),
        "nameless.pth": torch_zip(program(b"}" + asm(1) + tensor() + b"s", 2)),
        "strange_name.pth": torch_zip(program(b"}" + asm("a\n\x1b[2Jb") + tensor((5,)) + b"s", 2)),
        "empty_pickle.pth": torch_zip(b""),
        "empty.pth": b"",
        "one_byte.pth": b"\x80",
        "only_stop.pth": STOP,
        "text.pth": b"weights: 3\n",
        "web_page.pth": b"<!DOCTYPE html><html>404</html>",
        "pointer.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "header_too_long.safetensors": struct.pack("<Q", 2**60) + b"{}",
        "overflow.safetensors": _safetensors('{"a":{"dtype":"F32","shape":[4611686018427387904,4],'
                                             '"data_offsets":[0,16]}}'),
        "beyond_the_end.safetensors": _safetensors('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,99999]}}'),
        "overlapping.safetensors": _safetensors('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
                                                '"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
        "complex.safetensors": _safetensors('{"a":{"dtype":"C64","shape":[2],"data_offsets":[0,16]}}'),
    }  # fmt: skip


def _doublings(depth: int) -> bytes:
    """A network whose every module holds the next one twice."""
    opcodes = asm(Call(Name("a", "Leaf"), ()))
    for _ in range(depth):
        held = b"}" + asm("a") + b"h\x00s" + asm("b") + b"h\x00s"
        opcodes += b"q\x000" + asm(Call(Name("a", "Net"), ())) + b"}" + asm("_modules") + held + b"sb"
    return opcodes


def _numpy(start: bytes, pickled: bytes) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    return start + b"\x01\x00" + struct.pack("<H", len(header)) + header + pickled


def _zip(records: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return content.getvalue()


def _tar(records: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in records.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def _patched(content: bytes, marker: bytes, offset: int, value: int) -> bytes:
    place = content.index(marker) + offset
    return content[:place] + bytes([value]) + content[place + 1 :]


def _safetensors(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode() + bytes(16)


def try_each(folder: Path, names: list[str], witness: Path, action: Callable[[Path], object]) -> dict[str, str]:
    """What happens to each file in a process of its own: ``ran``, ``signal N``, ``opened``, or the error's text."""
    import os
    import resource

    results = {}
    for name in names:
        witness.unlink(missing_ok=True) if not witness.is_dir() else witness.rmdir()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.setsid()
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + 2**30  # 1 GiB more than this process has
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            try:
                action(folder / name)
                text = "opened"
            except BaseException as e:
                text = f"{type(e).__name__}: {e}"
            os.write(writing, text.encode("utf-8", "replace")[:4000])
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            text = pipe.read().decode()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            text = f"signal {os.WTERMSIG(status)}"
        deadline = time.monotonic() + 60
        with contextlib.suppress(ProcessLookupError):  # none is left of those that the file started, waited for or not
            while time.monotonic() < deadline:
                os.killpg(child, 0)
                time.sleep(0.01)
        results[name] = "ran" if witness.exists() else text
    return results


def control(path: Path) -> None:
    """Python's own unpickler, which runs what a file asks for."""
    import copyreg

    copyreg.add_extension("os", "system", 1)
    with path.open("rb") as file:
        pickle.load(file)


def main(folder: Path) -> None:
    """Write every file, open each, print what happened as JSON: of the control, of what is hidden, what exhausts."""
    import json

    from prrmse.nets.foreign import read_state

    witness = folder / "witness"
    results = {}
    for group, files, action in (
        ("control", ordinary(witness), control),
        ("hidden", hidden(witness), read_state),
        ("exhausting", exhausting(), read_state),
    ):
        place = folder / group
        place.mkdir()
        for name, content in files.items():
            (place / name.replace(" ", "_")).write_bytes(content)
        results[group] = try_each(place, [name.replace(" ", "_") for name in files], witness, action)
    print(json.dumps(results))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as scratch:
            code, others = hidden(Path(scratch) / "witness"), exhausting()
        print(f"{len(code)} files with code, {len(others)} that exhaust, overreach or are damaged")
