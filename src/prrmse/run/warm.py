"""Run a script of the workflow in a fork of a process that has already imported torch.

``python -m prrmse.run.warm SCRIPT [ARGUMENTS...]`` does what ``python SCRIPT [ARGUMENTS...]`` does: same working
folder, environment, streams and exit status. Importing torch and what it pulls in takes seconds, which is longer
than many sweeps take; here one process of this user, interpreter, folder and number of threads imports them once and
forks for each job. It imports third-party packages only, never this one, so a change of our code is always seen. It
exits when it has had nothing to do for a while. With ``--if-running`` before SCRIPT it is not started: for scripts
without torch.

The script runs in this process instead wherever a fork is no gain or not safe: not on Linux, inside a SLURM job or a
container (whose processes must stay below it), with ``PRRMSE_WARM=0``, or when the other process cannot be started.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import importlib
import json
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

# Dynamo is not used, but torchvision and the optimisers import it: half of the time to be saved.
PRELOADED = ("torch", "torch._dynamo", "torchvision", "pandas", "safetensors.torch", "scipy.stats")
IDLE_SECONDS = 30.0
START_SECONDS = 120.0
CONFINED = {"SLURM_JOB_ID", "APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"}
STARTED = b"s"
DIED = 137


def main(arguments: list[str]) -> int:
    """Entry point: the exit status of the script."""
    if arguments[:1] == ["--serve"]:
        serve(Path(arguments[1]))
        return 0
    starts = arguments[:1] != ["--if-running"]
    arguments = _expanded(arguments if starts else arguments[1:])
    if not arguments:
        print("usage: python -m prrmse.run.warm [--if-running] SCRIPT [ARGUMENTS...]", file=sys.stderr)
        return 2
    connection = _connect(starts) if _wanted() else None
    status = _ask(connection, arguments) if connection else None
    return _run(arguments) if status is None else status


def _wanted() -> bool:
    return sys.platform == "linux" and os.environ.get("PRRMSE_WARM") != "0" and not CONFINED & os.environ.keys()


def _expanded(arguments: list[str]) -> list[str]:
    """With the lines of files that only this process has open (``@<(...)`` of a shell) in their place."""
    given = [
        (os.fsdecode(Path(a[1:]).read_bytes()).splitlines() if a.startswith("@/dev/fd/") else [a]) for a in arguments
    ]
    return [argument for several in given for argument in several]


def _run(arguments: list[str]) -> int:
    """Run the script in this process; its exit status."""
    sys.argv = arguments
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as e:
        if isinstance(e.code, str):
            print(e.code, file=sys.stderr)
            return 1
        return e.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


# --- the side that asks ---


def _ask(connection: socket.socket, arguments: list[str]) -> int | None:
    """Exit status of the script, run by the other process; None if it never started."""
    request = json.dumps({"arguments": arguments, "folder": str(Path.cwd()), "environment": dict(os.environ)}).encode()
    with connection:
        # A signal that asks to stop goes on to the job, which may save its state before it ends.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: connection.shutdown(socket.SHUT_WR))
        try:
            socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
            connection.sendall(request)
            if connection.recv(1) != STARTED:
                return None
        except OSError:
            return None
        with contextlib.suppress(ConnectionResetError):
            if status := connection.recv(1):
                return status[0]
    print("error: the job was killed (out of memory?); run again to go on where it stopped", file=sys.stderr)
    return DIED


def _connect(starts: bool = True) -> socket.socket | None:
    """A connection to the server of `_address`; None if there is none.

    Args:
        starts: it, if there is none yet.
    """
    address = _address()
    if address is None:
        return None
    if not starts:
        return _try(address)
    with open(address.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several jobs that start at once, one starts the server
        if connection := _try(address):
            return connection
        server = subprocess.Popen(
            [sys.executable, "-m", "prrmse.run.warm", "--serve", str(address)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while server.poll() is None and time.monotonic() < deadline:
            if connection := _try(address):
                return connection
            time.sleep(0.02)
    return None


def _address() -> Path | None:
    from prrmse.files import own_folder  # not by the other process, whose forks would have it as it is now

    folder = own_folder()
    if folder is None:
        return None
    # OpenMP and BLAS read their threads when they are imported; a fork would round sums as the server's number does.
    threads = sorted((name, value) for name, value in os.environ.items() if name.endswith("_THREADS"))
    identity = [sys.executable, str(Path.cwd()), os.environ.get("PYTHONPATH", ""), threads]
    return folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _try(address: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        return None
    return connection


# --- the side that answers ---


def serve(address: Path) -> None:
    """Import, then fork for each connection, until nothing has been asked for `IDLE_SECONDS`."""
    address.unlink(missing_ok=True)
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()  # the garbage collector would touch, hence copy, the pages that the forks share
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(64)
        listener.settimeout(1.0)
        children, last = 0, time.monotonic()
        while children or time.monotonic() - last < IDLE_SECONDS:
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    _answer(connection)
                connection.close()
                children += 1
            while children and os.waitpid(-1, os.WNOHANG)[0]:
                children -= 1
                last = time.monotonic()
        address.unlink(missing_ok=True)


def _answer(connection: socket.socket) -> NoReturn:
    """Be the job: take over the streams, folder and environment of the one who asks, run, report, end."""
    connection.settimeout(None)
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    size, request = int.from_bytes(head, "big"), b""
    while len(request) < size and (part := connection.recv(size - len(request))):
        request += part
    if len(request) < size or len(streams) != 3:
        os._exit(1)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    asked = json.loads(request)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    connection.sendall(STARTED)
    status = _run(asked["arguments"])
    logging.shutdown()
    for output in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            output.flush()
    with contextlib.suppress(OSError):
        connection.sendall(bytes([status & 0xFF]))
    # Not sys.exit: tearing down torch takes longer than some jobs, and all files are closed.
    os._exit(status)


def _end_with(connection: socket.socket) -> None:
    """Ask this job to end when the one who asked for it has gone."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
