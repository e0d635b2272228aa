"""A killed training is resumed by the very same training only; whatever is changed, the result is a clean run's."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import logging
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise, killed_after

from prrmse import api
from prrmse.data.slices import save_slices
from prrmse.errors import InputError
from prrmse.experiments.base import train_base
from prrmse.experiments.transfer import transfer_run
from prrmse.learning import train as module
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.snapshot import snapshot_of
from prrmse.learning.target import FewPatients
from prrmse.nets.checkpoint import save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.settings import Compute, Training, UNet

STEPS = 6
UNET = UNet.model_validate({"arguments": ARGUMENTS["unet"], "pretrained": "none"})


def said(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "starting again" in r.getMessage() or "resum" in r.getMessage()]


@pytest.fixture(scope="module")
def starts(tmp_path_factory) -> dict[str, Path]:
    """Two checkpoints of our UNet."""
    folder = tmp_path_factory.mktemp("starts")
    found = {}
    for seed, name in enumerate(("first", "second")):
        found[name] = folder / f"{name}.safetensors"
        save_checkpoint(
            initialise("unet", ARGUMENTS["unet"], "independent", "none", name, seed),
            found[name],
            {"net": "unet", "arguments": ARGUMENTS["unet"]},
        )
    return found


def settings(**changed) -> Training:
    return SETTINGS.model_copy(update=changed)


def compute(**changed) -> Compute:
    return COMPUTE.model_copy(update=changed)


def kernels(n: int) -> list[str]:
    network = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    return [layer.tensor for layer in inventory(network) if layer.kind in ("W", "RM", "RV")][:n]


def other(slices):
    """The same slices, one pixel of one training image apart."""
    image = slices.image.copy()
    image[0, 0, 0] += 1
    return dataclasses.replace(slices, image=image)


CHANGES = {
    "steps": {"settings": settings(steps=STEPS + 1)},
    "batch size": {"settings": settings(batch_size=3)},
    "learning rate": {"settings": settings(learning_rate=0.004)},
    "weight decay": {"settings": settings(weight_decay=0.1)},
    "loss": {"settings": settings(loss="ce")},
    "augmentation": {"settings": settings(augment=False)},
    "seed": {"seed": 8},
    "width": {"arguments": {**ARGUMENTS["unet"], "width": 5}, "freeze": []},
    "network": {"network": "pspnet", "arguments": ARGUMENTS["pspnet"], "start": None, "freeze": []},
    "start": {"start": "second"},
    "no start": {"start": None, "freeze": []},
    "freeze": {"freeze": kernels(2)},
    "nothing frozen": {"freeze": []},
    "frozen statistics": {"frozen_statistics": "literal"},
    "reestimated statistics": {"frozen_statistics": "reestimated"},
    "samples": {"samples": 1},
    "precision": {"compute": compute(precision="bfloat16")},
    "threads": {"compute": compute(threads=2)},
    "data": {"slices": other},
    "nothing": {},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_training_killed_and_asked_for_otherwise_is_that_of_a_clean_run(
    what, slices, starts, tmp_path, monkeypatch, caplog
):
    """As `prrmse train` does it: `prrmse.api.train` with a path."""
    asked = {"network": "unet", "arguments": ARGUMENTS["unet"], "settings": settings(), "compute": compute()}
    asked |= {"seed": 7, "start": "first", "freeze": kernels(4), "frozen_statistics": "both", "samples": 2}

    def train(path: Path, change: dict) -> None:
        options = {**asked, **change}
        given = options.pop("slices", lambda x: x)(slices)
        start = options.pop("start")
        api.train(options.pop("network"), given, path, start=starts[start] if start else None, **options)

    path, clean = tmp_path / "a.safetensors", tmp_path / "clean.safetensors"
    killed_after(3, monkeypatch, lambda: train(path, {}))
    assert snapshot_of(path).is_file()
    caplog.set_level(logging.INFO)
    train(path, CHANGES[what])
    (line,) = said(caplog)
    assert ("resuming after step 3" in line) == (what == "nothing"), line
    assert not snapshot_of(path).is_file()
    train(clean, CHANGES[what])
    assert path.read_bytes() == clean.read_bytes()


OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.last(self.first(x).relu())
"""


@pytest.mark.parametrize("part", ["whole", "inner", "base"])
def test_a_training_of_a_network_whose_code_was_edited_begins_anew(part, slices, tmp_path, monkeypatch, caplog):
    """The network itself, one of its modules, or what it derives from, with the same parameters and the same names."""

    def network():
        made: dict = {}
        exec(compile(file.read_text(), str(file), "exec"), made)
        own = made["Own"]
        monkeypatch.setattr(inspect, "getfile", lambda of, find=inspect.getfile: str(file) if of is own else find(of))
        torch.manual_seed(0)
        if part == "base":
            return type("Derived", (own,), {})()
        return torch.nn.Sequential(own()) if part == "inner" else own()

    def run():
        return module.train(network(), slices.split("train"), "seg", settings(), 1, COMPUTE, resume=resume)

    file, resume = tmp_path / "own.py", tmp_path / ".own.resume"
    file.write_text(OWN)
    killed_after(3, monkeypatch, run)
    file.write_text(OWN.replace("relu", "sigmoid"))
    caplog.set_level(logging.INFO)
    edited = run()
    assert ["starting again" in line for line in said(caplog)] == [True]
    resume.unlink()
    clean = run()
    assert all(torch.equal(value, clean.state_dict()[name]) for name, value in edited.state_dict().items())


WORKFLOW = {
    "plan": {"plan": "all"},
    "source": {"checkpoint": "second"},
    "arm": {"arm": "finetune"},
    "init": {"init": "independent", "seed": 1},
    "reuse_final": {"plan": "all", "reuse_final": True, "arm": "finetune"},
    "frozen_statistics": {"frozen_statistics": "reestimated"},
    "verdict": {"reusable": 1},
    "samples": {"samples": 1},
}


@pytest.mark.parametrize("what", WORKFLOW)
def test_a_transfer_killed_and_asked_for_otherwise_is_that_of_a_clean_run(
    what, slices, starts, tmp_path, monkeypatch, caplog
):
    """As the rule `transfer` does it, with a plan that follows the verdict."""
    data = tmp_path / "data.npz"
    save_slices(slices, data)
    layers = inventory(initialise("unet", ARGUMENTS["unet"], "shared", "none", "", 0))

    def verdict(n: int) -> pd.DataFrame:
        rows = pd.DataFrame([layer._asdict() for layer in layers])
        return rows.assign(net="unet", source="a-seg", target="squares-seg", reusable=np.arange(len(rows)) < n)

    def transfer(name: str, change: dict) -> pd.DataFrame:
        asked = {"samples": 2, "arm": "freeze", "seed": 0, "init": "shared", "plan": "verdict", "checkpoint": "first"}
        asked |= {"reusable": 3, "reuse_final": False, "frozen_statistics": "both", **change}
        few = FewPatients(
            *("unet", "squares-seg", asked.pop("samples"), "a-seg", asked.pop("seed"), data),
            *(starts[asked.pop("checkpoint")], UNET, asked.pop("init"), compute()),
        )
        plan = {"verdict": verdict(asked.pop("reusable")), "resume": tmp_path / f".{name}.resume"}
        return transfer_run(few, asked.pop("arm"), settings=settings(), **plan, **asked)

    killed_after(3, monkeypatch, lambda: transfer("a", {}))
    caplog.set_level(logging.INFO)
    got = transfer("a", WORKFLOW[what])
    assert ["of other data or settings; starting again" in line for line in said(caplog)] == [True]
    pd.testing.assert_frame_equal(got, transfer("clean", WORKFLOW[what]), check_exact=True)


def test_a_base_model_killed_between_training_and_checkpoint_trains_no_step_again(slices, tmp_path, monkeypatch):
    data = tmp_path / "data.npz"
    save_slices(slices, data)

    def base(name: str) -> Path:
        path = tmp_path / name / "seed0.safetensors"
        train_base("unet", "squares-seg", 0, data, UNET, "shared", settings(), compute(), path)
        return path

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "counts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            base("a")
    assert not (tmp_path / "a/seed0.safetensors").exists()
    steps = []
    original = module.loss_of
    monkeypatch.setattr(module, "loss_of", lambda *a: steps.append(0) or original(*a))
    path = base("a")
    assert not steps
    assert path.read_bytes() == base("clean").read_bytes()
    assert snapshot_of(path).is_file(), "the caller discards it"


def test_a_snapshot_in_which_a_bit_turned_over_is_not_resumed(slices, tmp_path, monkeypatch, caplog):
    path, clean = tmp_path / "a.safetensors", tmp_path / "clean.safetensors"

    def train(path: Path) -> None:
        api.train("unet", slices, path, arguments=ARGUMENTS["unet"], settings=settings(), compute=COMPUTE)

    train(clean)
    killed_after(3, monkeypatch, lambda: train(path))
    whole, rng = snapshot_of(path).read_bytes(), random.Random(0)
    caplog.set_level(logging.INFO)
    for at in [0, len(whole) - 1, *rng.sample(range(len(whole)), 4)]:
        snapshot_of(path).write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
        caplog.clear()
        train(path)
        assert ["not as it was written; starting again" in line for line in said(caplog)] == [True]
        assert path.read_bytes() == clean.read_bytes()
    # Of another training, and what only the machine can read that wrote it.
    other = b"0" * 64 + b"tensors of a GPU"
    snapshot_of(path).write_bytes(hashlib.sha256(other).digest() + other)
    caplog.clear()
    train(path)
    assert ["of other data or settings; starting again" in line for line in said(caplog)] == [True]
    assert path.read_bytes() == clean.read_bytes()


def test_nothing_left_to_train_is_one_line(slices):
    network = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    with pytest.raises(InputError, match="every parameter is frozen"):
        module.train(network, slices, "seg", settings(), 0, compute(), frozen=inventory(network))
