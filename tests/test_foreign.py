"""Checkpoints from elsewhere: wrappings, prefixes, malice, damage; and networks by import path."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prrmse.errors import InputError
from prrmse.nets.build import build_network
from prrmse.nets.foreign import fit, read_state

STATE = {"conv.weight": torch.arange(18.0).view(2, 1, 3, 3), "conv.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"lr": 1.0}},
        {"network_weights": {f"_orig_mod.{k}": v for k, v in STATE.items()}, "init_args": {"plans": "x"}},
        {"checkpoint": 1, "model_state_dict": {f"module._orig_mod.{k}": v for k, v in STATE.items()}},
    ],
)
@pytest.mark.parametrize("ending", [".pt", ".pth", ".ckpt"])
def test_common_wrappings_are_taken_off(wrapped, ending, tmp_path):
    path = tmp_path / f"a{ending}"
    torch.save(wrapped, path)
    found = read_state(path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[k], v) for k, v in STATE.items())


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    assert read_state(tmp_path / "a.safetensors").keys() == STATE.keys()


class Malice:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(way, tmp_path):
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    content = {"state_dict": STATE, "extra": Malice(trace)}
    if way == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"evil\.pth: (holds more than weights|not a complete checkpoint)") as error:
        read_state(path)
    assert not trace.exists()
    assert "\n" not in str(error.value)
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


def test_what_holds_no_tensors_by_name_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds a list"):
        read_state(tmp_path / "list.pt")
    torch.save({"lr": 0.1, "epoch": 2}, tmp_path / "settings.pt")
    with pytest.raises(InputError, match="holds no tensors by name .its keys: lr, epoch"):
        read_state(tmp_path / "settings.pt")


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


def test_networks_by_import_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("import torch\ndef small(width=2): return torch.nn.Conv2d(1, width, 1)\nx = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert build_network("mine:small", {"width": 5}).out_channels == 5
    assert build_network("unet", {"width": 2}).final_name == "outc"
    for spec, arguments, message in [
        ("vnet", {}, "neither one of unet, pspnet nor an import path"),
        ("absent.module:net", {}, "cannot be imported"),
        ("mine:large", {}, "cannot be imported"),
        ("mine:small", {"depth": 2}, r"it takes \(width=2\)"),
        ("builtins:dict", {}, "gives a dict"),
    ]:
        with pytest.raises(InputError, match=message):
            build_network(spec, arguments)
    sys.modules.pop("mine", None)
