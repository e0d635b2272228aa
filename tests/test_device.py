"""Which GPU a job takes, what a missing one says, and what library calls leave as it was. No GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise

from prrmse import api
from prrmse.errors import InputError
from prrmse.learning import device as module
from prrmse.learning.device import choose_device, describe
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.train import train
from prrmse.nets.layers import inventory
from prrmse.run.job import run

HOLD = """
import os, sys
from prrmse.learning.device import lease_gpu
print(lease_gpu(), lease_gpu(), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job(tmp_path):
    started = []

    def start(**environment):
        kept = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD],
            env={**kept, "TMPDIR": str(tmp_path), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, process.stdout.readline().split()

    yield start
    for process in started:
        process.communicate()


def test_jobs_take_the_gpu_that_fewest_hold(job):
    first, one = job(CUDA_VISIBLE_DEVICES="4,7")
    _, two = job(CUDA_VISIBLE_DEVICES="4,7")
    _, three = job(CUDA_VISIBLE_DEVICES="4,7")
    assert (one, two, three) == (["4"] * 3, ["7"] * 3, ["4"] * 3), "asked twice, a job keeps its GPU"
    first.communicate()
    _, four = job(CUDA_VISIBLE_DEVICES="4,7")
    assert four == ["4"] * 3, "a job that has ended holds nothing"


@pytest.mark.parametrize("given", ["3", ""])
def test_what_the_cluster_gave_is_left_alone(job, given):
    _, printed = job(CUDA_VISIBLE_DEVICES=given)
    assert printed == ["None", "None", *([given] if given else [])]


def test_gpus_are_found_by_nvidia_smi(job, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    _, printed = job(PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert printed == ["0"] * 3


def test_a_file_where_the_locks_would_be_breaks_no_job(job, tmp_path):
    (tmp_path / f"prrmse-{os.getuid()}").touch()
    (tmp_path / ".cache").touch()
    _, printed = job(CUDA_VISIBLE_DEVICES="4,7", HOME=str(tmp_path))
    assert printed == ["None", "None", "4,7"]


def state_of_the_process():
    """What a library call could change for everybody else."""
    return {
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "filling": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic),
        "matmul": torch.get_float32_matmul_precision(),
        "random": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
    }


@pytest.fixture(params=["as torch starts", "otherwise"])
def somebodys_process(request, monkeypatch):
    """A process of somebody else, with flags that are not ours."""
    before = state_of_the_process()
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")  # between which a job would choose
    torch.set_num_threads(3)
    other = request.param == "otherwise"
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = other
    torch.utils.deterministic.fill_uninitialized_memory = other

    def refuse(name):
        raise AssertionError("the C library's allocator belongs to the process")

    monkeypatch.setattr(module.ctypes, "CDLL", refuse)
    yield
    torch.set_num_threads(before["threads"])
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warn only"])
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, _ = before["cudnn"]
    torch.utils.deterministic.fill_uninitialized_memory = before["filling"]


@pytest.mark.usefixtures("somebodys_process")
def test_library_calls_leave_the_process_as_it_was(slices):
    network, source = (initialise("unet", ARGUMENTS["unet"], "independent", "none", m, 0) for m in ("a-seg", "b-seg"))
    compute = COMPUTE.model_copy(update={"device": "auto"})
    before = state_of_the_process()
    train(network, slices.split("train"), "seg", SETTINGS.model_copy(update={"steps": 1}), 0, compute)
    evaluation = Evaluation(slices.split("val"), compute, 4)
    for engine in ("fast", "exact", "plain"):
        layers = inventory(network)[::40]
        api.sweep(network, source.state_dict(), evaluation, layers=layers, engine=engine)
    describe(compute)
    assert state_of_the_process() == before


def test_a_failed_training_leaves_the_process_as_it_was(slices):
    before = state_of_the_process()
    network = initialise("unet", ARGUMENTS["unet"], "independent", "none", "a-seg", 0)
    with pytest.raises(RuntimeError), module.deterministic(before["threads"] + 1):
        network(torch.zeros(1, 7, 32, 32))
    assert state_of_the_process() == before


def test_cuda_that_is_not_there_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="^device: torch finds no GPU for cuda"):
        choose_device("cuda")


def test_a_job_that_computes_sets_up_its_process_and_no_other(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "set_up_process", lambda *a: calls.append(a))
    monkeypatch.setattr(sys, "argv", ["job", "--params", json.dumps({"compute": {"device": "cpu", "threads": 3}})])
    run(lambda a: calls.append("work"), "params")  # the report and the manifest name all parameters
    run(lambda a: calls.append("work"), "params", keep=True)
    assert calls == ["work", ("cpu", 3), "work"]
