"""The device, its dtype, and determinism.

What changes the whole process (`set_up_process` and what it calls) is for programs: the jobs of the workflow and the
command line call it at their start, library functions never. `deterministic` and `forward_only` put back what they
change.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import quote

import torch

from prrmse.errors import InputError
from prrmse.files import own_folder
from prrmse.settings import Compute

log = logging.getLogger(__name__)

# cuBLAS is deterministic with this set.
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: CUDA is asked for and there is none.
    """
    found = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not found:
        raise InputError(
            "<device>: torch finds no GPU for cuda here; take cpu or auto, or install a torch built for CUDA"
        )
    return torch.device("cuda" if found else "cpu")


def set_up_process(device: str, threads: int) -> None:
    """What a program that computes does once, before it touches torch: take a GPU, keep memory, be deterministic.

    Args:
        device: as for `choose_device`.
        threads: of the CPU.
    """
    if device != "cpu":
        lease_gpu()
    keep_freed_memory()
    make_deterministic(threads)


@cache
def lease_gpu() -> str | None:
    """Reserve, for the life of this process, the GPU that fewest jobs of this user hold; its id.

    Snakemake counts GPUs but does not say which one a job may take, so that every job would take the first.
    Here the job takes the first free file lock: slot 0 of each GPU, then slot 1, and so on. ``CUDA_VISIBLE_DEVICES``
    then names that GPU alone. None where there is no choice: no GPU, one, or one given by the cluster; and on Windows,
    where torch takes the first.
    """
    gpus = _visible_gpus()
    if len(gpus) < 2:
        return None
    try:
        import fcntl
    except ImportError:
        return None
    folder = own_folder()
    if folder is None:
        log.warning("no folder for locks, so every job takes the first GPU; set TMPDIR to a folder of your own")
        return None
    for slot in itertools.count():
        for gpu in gpus:
            path = folder / f"gpu-{quote(gpu, safe='')}-{slot}.lock"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)  # held until the process ends
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
            return gpu
    raise AssertionError("unreachable: slots are endless")


def _visible_gpus() -> list[str]:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [gpu.strip() for gpu in given.split(",") if gpu.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    return subprocess.run(command, text=True, capture_output=True, check=False).stdout.split()


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bfloat16 where the hardware has instructions for it, else float32.

    Without such instructions bfloat16 is emulated and slower; `make bench` measures the ratio.
    """
    if name == "auto":
        name = "bfloat16" if has_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is done by the hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    flags = _cpu_flags()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _cpu_flags() -> set[str]:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="ignore") as f:
        for line in f:
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    return set()


def describe(compute: Compute) -> dict[str, Any]:
    """What decides how sums round: device, dtype and threads, as chosen here."""
    device = choose_device(compute.device)
    dtype = choose_precision(compute.precision, device)
    return {"device": device.type, "precision": str(dtype).removeprefix("torch."), "threads": compute.threads}


def make_deterministic(threads: int) -> None:
    """The same bytes from the same seeds on the same kind of machine, for the rest of the process.

    The number of threads is fixed because it decides how sums are split, hence how they round. A network of the user's
    with an operation that no GPU does deterministically is trained all the same: torch warns and names it.
    """
    os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # A help for finding reads of memory that nothing has written; it costs a sweep 7 per cent.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32; bfloat16 is there for speed
    torch.set_num_threads(threads)


@contextlib.contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Context of `make_deterministic`; afterwards torch and the environment are as they were."""
    threads_before, workspace = torch.get_num_threads(), os.environ.get(CUBLAS)
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    with _global_flags():
        try:
            make_deterministic(threads)
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
            if workspace is None:
                os.environ.pop(CUBLAS, None)


@contextlib.contextmanager
def _global_flags() -> Iterator[None]:
    """Context that puts back torch's deterministic mode and the flags of cuDNN."""
    mode = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.allow_tf32
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])
        cudnn.benchmark, cudnn.allow_tf32 = flags


@cache
def keep_freed_memory() -> None:
    """Let the C library keep large freed blocks for the next use (glibc; elsewhere nothing happens).

    It gives them back to the system otherwise, and each activation then costs its page faults anew.
    """
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError: Windows takes no None
        libc = ctypes.CDLL(None)
        for option in (trim_threshold, mmap_threshold):
            libc.mallopt(option, 2**30)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context in which matrix products run in ``dtype``."""
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)


@contextlib.contextmanager
def forward_only(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Context for networks that are only evaluated: `autocast`, float32 that is float32, and no detours.

    On a GPU torch's deterministic mode resizes feature maps by a slow way, for the sake of a backward pass.
    """
    with _global_flags():
        if device.type != "cpu":
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.allow_tf32 = False
        with autocast(device, dtype):
            yield
