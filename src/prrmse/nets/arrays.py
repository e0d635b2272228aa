"""Checkpoints as NumPy arrays, without importing torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from prrmse.errors import InputError

State = Mapping[str, np.ndarray]


def read_arrays(path: str | Path) -> tuple[State, dict[str, Any]]:
    """Tensors as arrays, and the header, of a checkpoint; without importing torch, which costs seconds.

    Raises:
        InputError: the file is missing, truncated or foreign.
    """
    try:
        with safe_open(path, framework="numpy") as f:
            header = json.loads((f.metadata() or {})["prrmse"])
            return {name: f.get_tensor(name) for name in f.keys()}, header  # noqa: SIM118 (not a dict)
    except KeyError:
        raise InputError(f"{path}: not a checkpoint of this program (its header has no key prrmse)") from None
    except (FileNotFoundError, SafetensorError, OSError) as e:
        raise InputError(f"{path}: not a complete safetensors file ({e}); delete it and run again") from None
