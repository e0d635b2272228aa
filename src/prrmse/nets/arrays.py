"""Checkpoints as NumPy arrays, without importing torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors import safe_open

from prrmse.errors import InputError

# Tensors of a checkpoint by name.
Arrays = Mapping[str, npt.NDArray[Any]]
# Not to delete it: a file of the user's may be the only one.
ANEW = "copy it again, or move it away and make it anew"


def read_arrays(path: str | Path) -> tuple[Arrays, dict[str, Any]]:
    """Tensors as arrays, and the header, of a checkpoint; without importing torch, which costs seconds.

    Raises:
        InputError: the file is missing, truncated or foreign.
    """
    with _opened(path) as f:
        header = _header(f, path)
        return {name: f.get_tensor(name) for name in f.keys()}, header  # noqa: SIM118 (not a dict)


def read_header(path: str | Path) -> dict[str, Any]:
    """The header alone; no tensor is read.

    Raises:
        InputError: as `read_arrays`.
    """
    with _opened(path) as f:
        return _header(f, path)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    if not Path(path).is_file():  # a pipe would block for ever
        raise InputError(f"{path}: no such file, or no file; run the workflow again, or name another")
    try:
        with safe_open(path, framework="numpy") as f:
            yield f
    except (InputError, MemoryError):
        raise
    except Exception as e:  # beside SafetensorError: numbers that NumPy does not have, names that are no paths
        text = " ".join(str(e).split())[:300] or type(e).__name__
        raise InputError(f"{path}: not a complete safetensors file ({text}); {ANEW}") from None


def _header(f: Any, path: str | Path) -> dict[str, Any]:
    header = (f.metadata() or {}).get("prrmse")
    if header is None:
        raise InputError(f"{path}: not a checkpoint of this program (its header has no key prrmse)")
    try:
        found = json.loads(header)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: its header is damaged; {ANEW}")
    return found
