"""Which runs and jobs are at work in a folder, told by locks that the kernel drops when their holder is dead.

Snakemake's own lock is a file that outlives a killed run. Every run holds ``.snakemake/run.lock``, shared with other
runs, and every job ``.snakemake/jobs.lock``. A run that can have the first for itself alone knows that whoever left
Snakemake's lock is dead, if that one was on this machine. A job ends itself when no run is left, as a killed one would
leave it behind. Where the file system has no such locks, all this is left out and Snakemake's own lock alone counts.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

from prrmse.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, on which the workflow does not run
    fcntl = None  # type: ignore[assignment]

RUN, JOBS, SNAKEMAKE = Path(".snakemake/run.lock"), Path(".snakemake/jobs.lock"), Path(".snakemake/locks")
RUN_SECONDS = 3.0
JOBS_SECONDS = 60.0


def hold_run() -> str | None:
    """For the life of this process, be a run in the working folder; clear the lock of one that is dead.

    Returns:
        Of another run that lives, its process and machine.

    Raises:
        InputError: jobs of a dead run are still at work.
    """
    handle = _open(RUN)
    if handle is None:
        return None
    alone = _exclusive(handle, RUN_SECONDS)
    if alone is None:
        os.close(handle)
        return None
    if not alone:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        atexit.register(_forget_holder, handle, os.getpid())
        return _holder(handle)
    from_here = _is_from_here(handle)
    if from_here:
        jobs = _open(JOBS)
        if jobs is not None:
            if _exclusive(jobs, JOBS_SECONDS) is False:
                raise InputError("jobs of a run that was killed are still at work here; run again when they have ended")
            os.close(jobs)
        for lock in SNAKEMAKE.glob("*.lock"):
            lock.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    # A lock that is left is of a run on another machine, which may live: with this run's name the next one here would
    # take it for its own and clear it.
    if from_here or not any(SNAKEMAKE.glob("*.lock")):
        _write_holder(handle)
        atexit.register(_forget_holder, handle, os.getpid())
    return None


def check_writable() -> None:
    """Refuse to run where this user cannot write: in the checkout of another, or on a disk mounted for reading only.

    Raises:
        InputError: names the first file or folder that cannot be written, its owner, and what to do.
    """
    made = (SNAKEMAKE.parent, Path("results"), Path("data/processed"), Path("data/phantom"))
    folders = [Path(), *made, *(path for folder in made[1:] for path in folder.rglob("*") if path.is_dir())]
    files = [path for name in ("metadata", "incomplete") for path in (SNAKEMAKE.parent / name).rglob("*")]
    for path in (*folders, *files, *Path("logs").rglob("*")):
        if path.exists() and not os.access(path, os.W_OK):
            raise InputError(
                f"{path.absolute()}: cannot be written by this user (it belongs to {_owner(path)}); work in a folder "
                "of your own (snakemake --directory), or in a clone"
            )


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # of another machine
        return f"user {path.stat().st_uid}"


def running() -> str | None:
    """Of the run that is at work in the working folder, its process and machine; None if there is none."""
    handle = _open(RUN)
    if handle is None:
        return None
    try:
        return _holder(handle) if _exclusive(handle, 0) is False else None
    finally:
        os.close(handle)


def hold_job() -> None:
    """For the life of this process, be a job in the working folder; end with the run that started it.

    A job of a cluster does not: there the scheduler owns it. Nor does a script that was started without a run.
    """
    handle = _open(JOBS)
    if handle is None:
        return
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH)
    if "SLURM_JOB_ID" not in os.environ and running():
        threading.Thread(target=_end_with_run, daemon=True).start()


def _end_with_run() -> None:
    with contextlib.suppress(OSError):
        handle = os.open(RUN, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)  # comes back when no run is left
        os.close(handle)
        os.kill(os.getpid(), signal.SIGTERM)


def _open(path: Path) -> int | None:
    """None where there is no `.snakemake`, or nothing can be locked."""
    if fcntl is None or not path.parent.is_dir():
        return None
    for how in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):  # of another user's checkout it can only be read
        with contextlib.suppress(OSError):
            return os.open(path, how, 0o666)
    return None


def _exclusive(handle: int, seconds: float) -> bool | None:
    """Whether the lock could be had for this process alone in that time; None on a file system without such locks."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        except OSError:  # Lustre mounted without -o flock, NFS whose lock service is down
            return None
        time.sleep(0.05)


def _write_holder(handle: int) -> None:
    holder = {"process": os.getpid(), "host": socket.gethostname(), "boot": _boot()}
    content = json.dumps(holder).encode()
    with contextlib.suppress(OSError):
        os.pwrite(handle, content, 0)
        os.truncate(handle, len(content))
        os.fsync(handle)  # before Snakemake's lock: if the power fails, none is found without a name


def _forget_holder(handle: int, process: int) -> None:
    """At the end of the last run, which has left no lock of its own: what is found later is another machine's."""
    with contextlib.suppress(OSError):
        if os.getpid() == process and _exclusive(handle, 0):
            os.truncate(handle, 0)


def _holder(handle: int) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        holder = json.loads(_content(handle))
        return f"process {holder['process']} on {holder['host']}"
    return "process unknown"


def _is_from_here(handle: int) -> bool:
    """Whether the last run was on this machine: not every network disk tells one machine of another's locks."""
    try:
        holder = json.loads(_content(handle))
        return bool(holder["host"] == socket.gethostname() or holder["boot"] == _boot())
    except (ValueError, KeyError, TypeError):
        return False


def _content(handle: int) -> bytes:
    return os.pread(handle, 10_000, 0)


def _boot() -> str:
    """Names this boot of the kernel, also in a container."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
