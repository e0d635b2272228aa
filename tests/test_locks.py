"""A killed run is gone on with, without a word to its locks; a living one is not disturbed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prrmse.errors import InputError
from prrmse.run import locks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="locks of the kernel")
SOURCE = str(Path(locks.__file__).parents[2])
RUN = "from prrmse.run.locks import hold_run; hold_run(); print('held', flush=True); import sys; sys.stdin.read()"
JOB = """
import signal, sys, time
from pathlib import Path
from prrmse.run.locks import hold_job
def stop(*_):
    Path("saved").touch()
    sys.exit(9)
signal.signal(signal.SIGTERM, stop)
hold_job()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a run or a job in a folder of its own; it is at work when this comes back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    started = []

    def begin(text: str, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", text],
            env={**os.environ, "PYTHONPATH": SOURCE, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def stale() -> Path:
    """What Snakemake leaves when it is killed."""
    lock = locks.SNAKEMAKE / "0.output.lock"
    lock.write_text("results/manifest.json\n")
    return lock


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def test_the_lock_of_a_dead_run_is_cleared_and_that_of_a_living_one_is_not(start, monkeypatch):
    run = start(RUN)
    assert locks.running() == f"process {run.pid} on {os.uname().nodename}"
    lock = stale()
    monkeypatch.setattr(locks, "RUN_SECONDS", 0.1)
    other = start(RUN)
    assert lock.exists(), "Snakemake allows two runs that share no file"
    kill(run)
    third = start(RUN)
    assert lock.exists(), "the second still lives"
    kill(other)
    kill(third)
    assert locks.running() is None
    start(RUN)
    assert not lock.exists()


def test_the_lock_of_another_machine_is_left_alone(start):
    kill(start(RUN))
    lock = stale()
    holder = locks.RUN.read_text()
    elsewhere = holder.replace(os.uname().nodename, "elsewhere").replace(locks._boot(), "other")
    locks.RUN.write_text(elsewhere)
    for _ in range(2):  # the first is refused by Snakemake; the second must not take the lock for the first one's
        kill(start(RUN))
        assert lock.exists()
        assert locks.RUN.read_text() == elsewhere
    lock.unlink()  # snakemake --unlock
    run = start(RUN)
    assert locks.running() == f"process {run.pid} on {os.uname().nodename}"


def test_a_run_that_ended_by_itself_has_left_no_lock(start):
    """Two machines that start at once: the one that Snakemake refuses must not clear the other's lock next time."""
    first, second = start(RUN), start(RUN)
    first.communicate()
    assert locks.RUN.read_text(), "another one here still lives, and may be killed"
    second.communicate()
    assert locks.RUN.read_text() == ""
    lock = stale()
    kill(start(RUN))
    assert lock.exists()


def test_the_name_of_a_run_is_on_the_disk_before_snakemake_locks(tmp_path, monkeypatch):
    """Otherwise a lock could outlive a power failure, and the name of whoever left it not."""
    monkeypatch.chdir(tmp_path)
    Path(".snakemake").mkdir()
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.pread(handle, 1000, 0)))
    assert locks.hold_run() is None
    assert synced == [locks.RUN.read_bytes()]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_where_nothing_can_be_locked_no_run_counts_as_at_work(start, monkeypatch, number):
    def unsupported(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    lock = stale()
    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    before = time.monotonic()
    assert locks.hold_run() is None
    assert locks.running() is None
    locks.hold_job()
    assert time.monotonic() - before < locks.RUN_SECONDS
    assert lock.exists(), "only Snakemake's own lock counts"


def test_a_job_ends_with_the_run_that_started_it_and_the_next_run_waits_for_that(start):
    run = start(RUN)
    job = start(JOB)
    lock = stale()
    time.sleep(0.3)
    assert job.poll() is None
    kill(run)
    start(RUN)
    assert job.wait(10) == 9
    assert Path("saved").exists(), "it may save its state first"
    assert not lock.exists()


@pytest.mark.parametrize("environment", [{}, {"SLURM_JOB_ID": "7"}])
def test_a_job_without_a_run_or_of_a_cluster_goes_on_and_holds_up_the_next_run(start, environment):
    run = start(RUN) if environment else None
    job = start(JOB, **environment)
    if run:
        kill(run)
    lock = stale()
    text = "import prrmse.run.locks as l; l.JOBS_SECONDS = 0.5; l.hold_run()"
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": SOURCE},
        text=True,
        capture_output=True,
        check=False,
    )
    if run:
        assert "jobs of a run that was killed are still at work here" in done.stderr
        assert lock.exists()
    assert job.poll() is None
    job.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("closed", [".", ".snakemake", "results/tables", ".snakemake/metadata/note", "logs/base.log"])
def test_what_another_user_owns_is_named_before_a_run_starts(tmp_path, monkeypatch, capfd, closed):
    monkeypatch.chdir(tmp_path)
    for folder in ("results/tables", ".snakemake/metadata", "logs"):
        Path(folder).mkdir(parents=True)
    for file in (".snakemake/metadata/note", "logs/base.log", "results/tables/base.csv"):
        Path(file).touch()
    for path in (Path(), *Path().rglob("*")):
        path.chmod(0o777)
    Path("results/tables/base.csv").chmod(0o444)  # which is replaced, not written to
    for mode in (0o777, 0o555):
        Path(closed).chmod(mode)
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:  # who may write anywhere
                    os.setuid(65534)
                locks.check_writable()
                os._exit(0)
            except InputError as e:
                os.write(2, str(e).encode())
            finally:
                os._exit(2)
        _, status = os.waitpid(child, 0)
        path = "" if closed == "." else f"/{closed}"
        owner = f"{tmp_path}{path}: cannot be written by this user (it belongs to {Path(closed).owner()}); "
        assert capfd.readouterr().err.startswith(owner if mode == 0o555 else "")
        assert os.waitstatus_to_exitcode(status) == (2 if mode == 0o555 else 0)
    Path(closed).chmod(0o777)
