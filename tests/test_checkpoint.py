"""Checkpoints: equal bytes for equal contents, and one error for anything else."""

import pytest
import torch
from safetensors.torch import save_file

from prrmse.errors import InputError
from prrmse.nets.build import build
from prrmse.nets.checkpoint import load_checkpoint, load_network, save_checkpoint

HEADER = {"net": "unet", "arguments": {"width": 4}, "model": "a-seg", "seed": 0, "z": {"b": 1, "a": 2}}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("unet", width=4).eval()


def test_round_trip_and_equal_bytes(network, tmp_path):
    for i in range(6):
        save_checkpoint(network, tmp_path / f"{i}.safetensors", HEADER)
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(6)}) == 1
    loaded, header = load_network(tmp_path / "0.safetensors")
    assert {k: header[k] for k in HEADER} == HEADER
    assert "torch" in header["libraries"]
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(loaded(x), network(x))
    assert not list(tmp_path.glob("*partial*"))


def test_bad_files_are_one_error(network, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match=r"a\.safetensors"):
        load_checkpoint(path)
    save_checkpoint(network, path, HEADER)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a complete safetensors file .*; copy it again, or move it away"):
        load_checkpoint(path)
    for header in ("no JSON", '{"names": {"b": []}}'):
        save_file({"a": torch.zeros(1)}, path, {"prrmse": header})
        with pytest.raises(InputError, match="; copy it again, or move it away and"):  # it may be somebody's only copy
            load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="not a checkpoint of this program"):
        load_checkpoint(path)
