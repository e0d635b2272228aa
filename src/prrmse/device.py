"""The device, its number format, and determinism."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


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


def make_deterministic(threads: int) -> None:
    """The same bytes from the same seeds on the same kind of machine.

    The number of threads is fixed because it decides how sums are split, hence how they round.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads)


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Context in which matrix products run in ``dtype``."""
    return torch.autocast(device.type, dtype, enabled=dtype is not torch.float32)
