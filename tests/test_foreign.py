"""Checkpoints from elsewhere: layouts, wrappings, prefixes, damage; and networks by import path."""

import os
import pickle
import random
import re
import sys
from argparse import Namespace
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from prrmse.errors import InputError
from prrmse.nets.build import build_network
from prrmse.nets.foreign import fit, read_state, state_entries

STATE = {"conv.weight": torch.arange(18.0).view(2, 1, 3, 3), "conv.bias": torch.ones(2)}
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}


class Tagged(torch.Tensor):
    """A subclass, as MONAI's MetaTensor is one."""


def same(found, expected):
    """Whether two states have the same names in the same order, types, shapes and bits."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert type(found[name]) is torch.Tensor and not found[name].requires_grad
        ours, theirs = (x.detach().as_subclass(torch.Tensor).contiguous().flatten() for x in (found[name], tensor))
        assert torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)), name
    return True


def every_kind_of_tensor():
    large = torch.arange(24.0).view(2, 3, 4)
    marked = nn.Parameter(torch.ones(3))
    marked.sharded = True  # a parameter with attributes is pickled in another way
    tagged = torch.arange(3.0).as_subclass(Tagged)
    tagged.meta = {"affine": np.eye(4)}
    numbers = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    kinds = {f"number.{x}": torch.tensor([0, 1, 3]).to(getattr(torch, x)) for x in numbers}
    return kinds | {
        "scalar": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "part": large[1, :, 1:3],
        "transposed": large.transpose(0, 2),
        "last": torch.arange(48.0).view(2, 3, 2, 4).to(memory_format=torch.channels_last),
        "repeated": torch.ones(1).expand(5),
        "same.a": large,
        "same.b": large,
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "marked": marked,
        "tagged": tagged,
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_every_kind_of_tensor_is_read_as_torch_reads_it(zipped, tmp_path):
    path = tmp_path / "a.pth"
    content = every_kind_of_tensor()
    if zipped:
        content |= {"number.uint16": torch.tensor([1, 60000], dtype=torch.uint16),
                    "number.float8": torch.tensor([1.5, -2]).to(torch.float8_e4m3fn)}  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = read_state(path)
    same(found, torch.load(path, weights_only=False))
    assert found["same.a"].data_ptr() == found["same.b"].data_ptr()
    assert found["part"].untyped_storage().data_ptr() == found["same.a"].untyped_storage().data_ptr()


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_and_arrays_in_plain_pickles(protocol, tmp_path):
    path = tmp_path / "a.pkl"
    values = np.arange(12.0).reshape(3, 4)
    arrays = {"c": values, "f": np.asfortranarray(values), "half": values.astype(np.float16),
              "big": values.astype(">f4"), "int": values.astype(np.int64), "truth": values > 3,
              "empty": np.empty((0, 2)), "part": values[1:, ::2],
              "scalar": np.array(3.0)}  # fmt: skip
    path.write_bytes(pickle.dumps({"model": arrays, "iteration": np.int64(3), "loss": np.float64(0.5)}, protocol))
    expected = {k: torch.from_numpy(v.astype(v.dtype.newbyteorder("="))) for k, v in arrays.items()}
    assert same(read_state(path), expected)
    path.write_bytes(pickle.dumps(STATE, protocol))
    assert same(read_state(path), STATE)
    torch.save(arrays, path, pickle_protocol=max(protocol, 2))
    assert same(read_state(path), expected)


def test_arrays_of_old_and_new_numpy(tmp_path):
    path = tmp_path / "a.pkl"
    new = pickle.dumps({"w": np.arange(3.0)}, 2)
    assert b"numpy._core.multiarray" in new
    for content in (new, new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")):
        path.write_bytes(content)
        assert same(read_state(path), {"w": torch.arange(3.0).double()})


def test_files_written_without_checksums(tmp_path):
    path = tmp_path / "a.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert same(read_state(path), STATE)


def test_the_state_of_an_optimiser_is_not_read(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"state_dict": STATE, "optimizer": {"state": {0: {"m": torch.full((1000,), 7.0)}}}}, path)
    content = bytearray(path.read_bytes())
    place = content.index(np.full(1000, 7.0, np.float32).tobytes())
    content[place + 100] ^= 1  # damage that its checksum would show
    path.write_bytes(content)
    assert same(read_state(path), STATE)
    with pytest.raises(InputError, match="not a complete checkpoint"):
        content[content.index(STATE["conv.weight"].numpy().tobytes()) + 8] ^= 1
        path.write_bytes(content)
        read_state(path)


@pytest.mark.parametrize("text", ["hello world, a text", "# weights\n", "epoch,loss\n1,0.5\n", "<html>Not found", "("])
def test_a_text_is_said_to_be_no_checkpoint_in_plain_words(tmp_path, text):
    path = tmp_path / "text.pth"
    path.write_text(text)
    with pytest.raises(InputError) as e:
        read_state(path)
    assert str(e.value) == (
        f"{path}: not a complete checkpoint (it holds no whole pickle, as torch.save writes them); copy it again, or "
        "name another file"
    )


class Network(nn.Module):
    """With a module under two names, as nnU-Net's decoder has its encoder, and buffers of both kinds."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.decoder = nn.ModuleDict({"encoder": self.encoder, "head": nn.Conv2d(2, 2, 1, bias=False)})
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_network_is_read_as_its_state(zipped, tmp_path):
    network = Network()
    torch.save({"epoch": 1, "model": network}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = read_state(tmp_path / "a.pt")
    assert same(found, network.state_dict())
    assert found["decoder.encoder.0.weight"].data_ptr() == found["encoder.0.weight"].data_ptr()


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        OrderedDict(STATE),
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"lr": 1.0}},
        {"network_weights": {f"_orig_mod.{k}": v for k, v in STATE.items()}, "init_args": {"plans": "x"}},
        {"checkpoint": 1, "model_state_dict": {f"module._orig_mod.{k}": v for k, v in STATE.items()}},
        {"model": {"state_dict": STATE, "rng": torch.ones(3)}, "rng_state": torch.ones(5)},
        {"model": {k.replace("conv.", "conv._fsdp_wrapped_module."): v for k, v in STATE.items()}},
        {"unusual": STATE, "optimizer": {"m": STATE, "more": OTHER}, "loss": torch.ones(())},
        {"teacher": {f"module.{k}": v for k, v in STATE.items()}, "student": OTHER, "args": Namespace(lr=1)},
        {"state_dict": OTHER, "state_dict_ema": STATE},
        {"model": OTHER, "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in STATE.items()}}},
        {"ema": None, "model": STATE},
    ],
)
@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt", ".bin", ".model", ""])
def test_common_wrappings_are_taken_off(wrapped, ending, tmp_path):
    path = tmp_path / f"a{ending}"
    torch.save(wrapped, path)
    assert same(read_state(path), STATE)


def test_one_of_several_states_is_chosen_and_told(tmp_path, caplog):
    path = tmp_path / "a.pth"
    torch.save({"student": OTHER, "teacher": STATE, "nested": {"net": {"w": torch.ones(2)}}}, path)
    with caplog.at_level("INFO"):
        assert same(read_state(path), STATE)
    assert f"{path}: took the state teacher; it also has student, nested.net" in caplog.text
    assert state_entries(path) == {"student": 2, "teacher": 2, "nested.net": 1}
    assert same(read_state(path, "student"), OTHER)
    assert list(read_state(path, "nested.net")) == list(read_state(path, "net")) == ["w"]
    with pytest.raises(InputError, match=r"a\.pth: entry pupil: no such state; it has student, teacher, nested\.net"):
        read_state(path, "pupil")
    torch.save({"a": {"net": STATE}, "b": {"net": OTHER}}, path)
    with pytest.raises(InputError, match=r"entry net: several states; it has a\.net, b\.net"):
        read_state(path, "net")
    with pytest.raises(InputError, match=r"holds 2 states and none under a usual name; .* a\.net, b\.net"):
        read_state(path)
    save_file(STATE, tmp_path / "a.safetensors")
    assert state_entries(tmp_path / "a.safetensors") == {"": 2}
    with pytest.raises(InputError, match="a safetensors file has one state"):
        read_state(tmp_path / "a.safetensors", "teacher")


def test_averaged_weights_of_torch(tmp_path):
    network = nn.Conv2d(1, 2, 3)
    averaged = AveragedModel(network)
    averaged.update_parameters(network)
    torch.save({"model_ema": averaged.state_dict(), "model": OTHER}, tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), network.state_dict())


def test_a_state_that_holds_itself(tmp_path):
    loop = dict(STATE)
    loop["state_dict"] = loop
    torch.save(loop, tmp_path / "a.pth")
    assert same(read_state(tmp_path / "a.pth"), STATE)


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_safetensors_are_told_by_their_content(ending, tmp_path):
    save_file(STATE, tmp_path / f"a{ending}")
    assert read_state(tmp_path / f"a{ending}").keys() == STATE.keys()


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_malicious_pickle_is_read_without_running_it_and_told_about(way, tmp_path, caplog):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"state_dict": STATE, "extra": Malice(trace)}
    if way == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with caplog.at_level("INFO"):
        assert same(read_state(path), STATE)
    assert not trace.exists()
    assert re.search(r"nothing of it was run; other programs may import .*pathlib.P", caplog.text)
    pickle.loads(pickle.dumps(Malice(trace)))
    assert trace.exists(), "the pickle is harmless: the test shows nothing"


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_truncated_and_foreign_files_get_one_line(ending, tmp_path):
    path = tmp_path / f"a{ending}"
    torch.save(STATE, path) if ending == ".pth" else save_file(STATE, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PNG\x89 not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not a complete") as error:
            read_state(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        read_state(tmp_path / "none.pth")


@pytest.mark.parametrize("layout", ["zip", "stream", "pickle", "safetensors"])
def test_damage_is_found_or_changes_no_more_than_numbers(layout, tmp_path):
    path = tmp_path / ("a.safetensors" if layout == "safetensors" else "a.pth")
    if layout == "safetensors":
        save_file(STATE, path)
    elif layout == "pickle":
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in STATE.items()}))
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=layout == "zip")
    whole, generator, refused = path.read_bytes(), random.Random(0), 0
    damaged = [whole[: len(whole) * i // 60] for i in range(60)]
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(generator.choice([1, 1, 4])):
            content[generator.randrange(len(content))] = generator.randrange(256)
        damaged.append(bytes(content))
    for content in damaged:
        path.write_bytes(content)
        try:
            found = read_state(path)
        except InputError as e:
            refused += 1
            assert str(e).startswith(f"{path}: ") and str(e).isprintable()
        else:
            assert sum(tensor.numel() for tensor in found.values()) <= 20
    assert refused >= 60


@contextmanager
def as_nobody():
    """Without root's rights, which overrule a file's permissions."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="no such files on Windows")
def test_what_is_no_readable_file_gets_one_line(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    (tmp_path / "folder.pth").mkdir()
    for name, message in [
        ("pipe.pth", "not a file"),
        ("folder.pth", "a folder; name a file in it"),
        ("loop.pth", r"cannot be read \(Too many levels of symbolic links\)"),
        ("a\0.pth", r"cannot be read \(embedded null byte\)"),
        ("n" * 300, r"cannot be read \(File name too long\)"),
        ("pipe.pth/x", "no such file"),
    ]:
        for function in (read_state, state_entries):
            with pytest.raises(InputError, match=f": {message}"):
                function(tmp_path / name)
    path = tmp_path / "a.pth"
    torch.save(STATE, path)
    path.chmod(0)
    with as_nobody(), pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        read_state(path)


def test_what_holds_no_tensors_by_name_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds a list"):
        read_state(tmp_path / "list.pt")
    torch.save({"lr": 0.1, "epoch": 2}, tmp_path / "settings.pt")
    with pytest.raises(InputError, match="holds no tensors by name .its keys: lr, epoch"):
        read_state(tmp_path / "settings.pt")
    torch.jit.save(torch.jit.trace(nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)), tmp_path / "program.pt")
    with pytest.raises(InputError, match=r"a TorchScript program; .* save its state_dict"):
        read_state(tmp_path / "program.pt")


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (torch.eye(3).to_sparse(), "is sparse"),
        (torch.eye(3).to_sparse_csr(), "is sparse"),
        (torch.ones(3, device="meta"), "is on the device meta"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "is nested"),
        (torch.ones(3, dtype=torch.complex64), "has numbers of type complex64"),
        (torch.ones(3, dtype=torch.complex64).conj().imag, "is a conjugate or negative view"),
        (torch.ones(1).expand(2**25), "repeats 1 numbers as 33554432"),
    ],
)
def test_a_tensor_that_is_not_dense_and_real_is_named(tensor, problem, tmp_path):
    torch.save({"state_dict": {**STATE, "odd.weight": tensor}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a\.pth: the tensor odd\.weight {problem}.*; it must be dense and real"):
        read_state(tmp_path / "a.pth")


def test_numbers_that_are_not_finite_are_told_once(tmp_path, caplog):
    torch.save({**STATE, "x": torch.tensor([1, torch.nan]), "y": torch.tensor([torch.inf]).half()}, tmp_path / "a.pth")
    read_state(tmp_path / "a.pth")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "a.pth: the tensor x and 1 more tensors: NaN or infinite numbers" in caplog.text
    caplog.clear()
    torch.save(STATE, tmp_path / "a.pth")
    read_state(tmp_path / "a.pth")
    assert not caplog.records


def test_fit_reports_every_tensor_and_adapts_the_image_channels():
    own = {"stem.weight": torch.zeros(4, 1, 3, 3), "body.weight": torch.zeros(4, 4, 3, 3),
           "head.weight": torch.zeros(2, 4, 1, 1), "extra.bias": torch.zeros(2)}  # fmt: skip
    other = {"model.stem.weight": torch.rand(4, 3, 3, 3), "model.body.weight": torch.rand(4, 4, 3, 3),
             "model.head.weight": torch.rand(5, 4, 1, 1), "model.fc.weight": torch.rand(9, 4)}  # fmt: skip
    fitted, table = fit(own, other)
    status = dict(zip(table["tensor"], table["status"], strict=True))
    assert status == {"stem.weight": "adapted", "body.weight": "same", "head.weight": "other shape",
                      "extra.bias": "missing", "fc.weight": "surplus"}  # fmt: skip
    assert fitted.keys() == {"stem.weight", "body.weight"}
    grey = torch.rand(1, 1, 8, 8)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), other["model.stem.weight"])
    torch.testing.assert_close(nn.functional.conv2d(grey, fitted["stem.weight"]), expected)
    wide, _ = fit({"stem.weight": torch.zeros(4, 3, 3, 3)}, {"stem.weight": fitted["stem.weight"]})
    torch.testing.assert_close(nn.functional.conv2d(grey.expand(-1, 3, -1, -1), wide["stem.weight"]), expected)


@pytest.mark.parametrize(
    ("own_prefix", "other_prefix"),
    [("", "model."), ("", "backbone."), ("", "net.unet."), ("", "module.encoder_q."), ("encoder.", ""), ("a.b.", "")],
)
def test_any_prefix_is_fitted(own_prefix, other_prefix):
    names = ["0.weight", "0.bias", "1.block.weight"]
    own = {own_prefix + name: torch.zeros(2, 2, 3, 3) for name in names}
    other = {other_prefix + name: torch.rand(2, 2, 3, 3) for name in names}
    others = {"head.weight": torch.rand(3)}  # what has not the prefix stays, as surplus
    fitted, table = fit(own, {**others, **other})
    assert all(torch.equal(fitted[own_prefix + name], other[other_prefix + name]) for name in names)
    assert list(table["status"]) == ["same"] * 3 + ["surplus"]


def test_of_two_prefixes_the_one_whose_shapes_fit_is_taken():
    own = {"a.weight": torch.zeros(2, 3), "b.weight": torch.zeros(4)}
    small = {f"small.{name}": torch.zeros(1) for name in [*own, "c.weight"]}
    large = {f"large.{name}": torch.ones_like(tensor) for name, tensor in own.items()}
    fitted, _ = fit({**own, "c.weight": torch.zeros(5)}, {**small, **large})
    assert fitted.keys() == own.keys()
    assert all(bool(tensor.all()) for tensor in fitted.values())


@pytest.mark.parametrize("offered", ["all names", "one name", "the other name", "safetensors"])
def test_a_tensor_with_several_names_fits_by_any_of_them(offered, tmp_path):
    own, source = Network(), Network()
    state = source.state_dict()
    alias = [name for name in state if name.startswith("decoder.encoder.")]
    if offered == "one name":
        state = {name: tensor for name, tensor in state.items() if name not in alias}
    elif offered == "the other name":
        state = {name: tensor for name, tensor in state.items() if not name.startswith("encoder.")}
    elif offered == "safetensors":  # which writes a shared tensor once
        save_model(source, str(tmp_path / "a.safetensors"))
        state = read_state(tmp_path / "a.safetensors")
        assert len(state) < len(source.state_dict())
    fitted, table = fit(own.state_dict(), state)
    assert set(table["status"]) == {"same"}
    own.load_state_dict(fitted, strict=True)
    assert same({n: t.clone() for n, t in own.state_dict().items()}, source.state_dict())


def test_networks_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\ndef small(width=2): return torch.nn.Conv2d(1, width, 1)\nx = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build_network("mine:small", {"width": 5}, trust=True).out_channels == 5
    assert build_network("unet", {"width": 2}).final_name == "outc"
    for spec, arguments, message in [
        ("vnet", {}, "neither one of unet, pspnet nor an import path"),
        ("absent.module:net", {}, "cannot be imported"),
        ("mine:large", {}, "cannot be imported"),
        ("mine:small", {"depth": 2}, r"it takes \(width=2\)"),
        ("builtins:dict", {}, "gives a dict"),
    ]:
        with pytest.raises(InputError, match=message):
            build_network(spec, arguments, trust=True)
    sys.modules.pop("mine", None)
