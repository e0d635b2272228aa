"""Checkpoints as NumPy arrays, without importing torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from prrmse.errors import InputError

# Tensors of a checkpoint by name.
Arrays = Mapping[str, npt.NDArray[Any]]


def read_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Tensors as arrays, and the header, of a checkpoint; without importing torch, which costs seconds.

    Raises:
        InputError: the file is missing, truncated or foreign.
    """
    with _opened(path) as f:
        return {name: f.get_tensor(name) for name in f.keys()}, _header(f, path)  # noqa: SIM118 (not a dict)


def read_header(path: str | Path) -> dict[str, Any]:
    """The header alone; no tensor is read.

    Raises:
        InputError: as `read_arrays`.
    """
    with _opened(path) as f:
        return _header(f, path)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as f:
            yield f
    except (FileNotFoundError, SafetensorError, OSError) as e:
        raise InputError(f"{path}: not a complete safetensors file ({e}); delete it and run again") from None


def _header(f: Any, path: str | Path) -> dict[str, Any]:
    header = (f.metadata() or {}).get("prrmse")
    if header is None:
        raise InputError(f"{path}: not a checkpoint of this program (its header has no key prrmse)")
    try:
        found: dict[str, Any] = json.loads(header)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not a complete checkpoint (its header is no JSON: {e}); run again") from None
    return found
