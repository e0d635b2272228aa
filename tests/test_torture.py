"""Short form of tests/torture/writes.py; those of notes.py and kills.py are in tests/test_workflow.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = Path(__file__).parent / "torture"


def torture(name: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(TORTURE.parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    environment.pop("SLURM_JOB_ID", None)
    command = [sys.executable, str(TORTURE / f"{name}.py"), *arguments]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def can_trace() -> bool:
    """Whether strace is there and may trace (some containers forbid it)."""
    command = ["strace", "-o", os.devnull, "true"]
    return (
        shutil.which("strace") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_trace(), reason="needs strace, which may trace")
def test_jobs_survive_a_kill_and_a_full_disk_wherever_they_write():
    printed = torture("writes", "--points", "6", "--seed", os.environ.get("TORTURE_SEED", "0"))
    assert printed.count("| 6 | 0 |") == 4
