"""Small things that several tests share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import Folder
from torch import nn

from prrmse.data.slices import Slices
from prrmse.learning import train as train_module
from prrmse.learning.evaluate import Evaluation
from prrmse.nets.initialisation import initialised_network
from prrmse.phantom.cohort import generate
from prrmse.settings import Compute, PSPNet, Training, UNet

# For the workers and every program that they start: more threads than cores wait for each other, and tests that compute
# took five times as long. Where a number of threads is what is tested, it is set.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

COMPUTE = Compute(
    device="cpu",
    precision="float32",
    evaluation_precision="float32",
    threads=1,
    evaluation_batch_size=5,
    resume_seconds=0,
)
# Where no training is killed.
SELDOM = COMPUTE.model_copy(update={"resume_seconds": 3600})
SETTINGS = Training(steps=6, batch_size=4, learning_rate=0.003, augment=True)
ARGUMENTS: dict[str, dict[str, Any]] = {"unet": {"width": 4}, "pspnet": {"width": 8, "head_width": 64}}


def initialise(net: str, arguments: dict[str, Any], init: str, pretrained: str, model: str, seed: int) -> nn.Module:
    """One of our networks at its initialisation."""
    spec = {"arguments": arguments, "pretrained": pretrained}
    return initialised_network(net, {"unet": UNet, "pspnet": PSPNet}[net].model_validate(spec), init, model, seed)


@pytest.fixture(scope="session")
def slices() -> Slices:
    """12 slices of 4 patients, 32 x 32, with three nested squares as structures."""
    rng = np.random.default_rng(0)
    label = np.zeros((12, 32, 32), np.uint8)
    label[:, 4:28, 4:28], label[:, 8:24, 8:24], label[:, 12:20, 12:20] = 1, 2, 3
    image = (label + 0.3 * rng.standard_normal(label.shape)).astype(np.float32)
    patient = [f"patient{i // 3:03d}" for i in range(12)]
    split = ["train"] * 6 + ["val"] * 6
    index = pd.DataFrame({"patient": patient, "frame": "ED", "slice": np.arange(12) % 3, "split": split})
    classes = {"1": "RV", "2": "myocardium", "3": "LV"}
    meta = {"dataset": "squares", "classes": classes, "spacing_mm": 1.0, "provenance": "synthetic"}
    return Slices(image, label, index, meta)


@pytest.fixture(scope="module", params=["unet", "pspnet"])
def trained(request: pytest.FixtureRequest, slices: Slices) -> tuple[nn.Module, Evaluation, Evaluation]:
    """A network that segments the slices, and these for its training and its validation."""
    net = request.param
    network = initialise(net, ARGUMENTS[net], "shared", "none", "a-seg", 0)
    settings = SETTINGS.model_copy(update={"steps": 60, "learning_rate": 0.01, "augment": False})
    train_module.train(network, slices.split("train"), "seg", settings, 0, COMPUTE)
    training, validation = (Evaluation(slices.split(split), COMPUTE, 4) for split in ("train", "val"))
    return network.eval(), training, validation


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A folder in which `snakemake` has run, one for all workers: to be copied, not changed."""
    import fcntl  # absent on Windows

    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "whole_run"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / "results/manifest.json").exists():
            Folder(path).must("snakemake", "--cores", "2")
    return Folder.at(path)


@pytest.fixture(scope="session")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of four patients (rvsc: two and two) in the three distributed formats."""
    root = tmp_path_factory.mktemp("cohorts")
    for name in ("acdc", "rvsc", "t1"):
        generate(name, root / name, patients=4, seed=3)
    return root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that the workers end together."""
    long = ("study", "search", "error_rates", "sweep", "torture", "controls", "evaluation", "records", "elsewhere")
    names = ("slurm", "workflow", "dvc", "tutorial", "conda", "zoo", *long, "tool", "nnunet", "fuzz")
    order = [f"test_{name}.py" for name in names]
    items.sort(key=lambda item: order.index(item.path.name) if item.path.name in order else len(order))


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch, call) -> None:
    """Call, and stop the training in it like a kill does: nothing after these steps is done."""
    done = iter(range(1000))
    original = train_module.loss_of

    def stop(*arguments):
        if next(done) == steps:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(train_module, "loss_of", stop)
        with pytest.raises(KeyboardInterrupt):
            call()
