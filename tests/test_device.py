"""Jobs on a machine with several GPUs spread over them. No GPU is needed: what is tested is who takes which id."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
