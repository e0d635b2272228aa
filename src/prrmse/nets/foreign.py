"""Checkpoints that come from elsewhere: opened without running their code, and fitted name by name."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from prrmse.errors import InputError

State = dict[str, torch.Tensor]

# Where training programs put the state: Lightning, MONAI and timm, nnU-Net, DINO, plain scripts.
WRAPPINGS = ("state_dict", "network_weights", "model_state_dict", "model_state", "model", "network", "net", "student")
# Put before every name by DataParallel, torch.compile and Lightning modules.
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.")


def read_state(path: str | Path) -> State:
    """The tensors of a ``.safetensors``, ``.pt``, ``.pth``, ``.ckpt`` or ``.bin`` file, on the CPU.

    A pickle is read with ``weights_only``: one that would run code is refused, and none is run. Common wrappings
    (``state_dict``, ``model``, ``network_weights`` and others) are taken off, and so are ``module.`` and
    ``_orig_mod.`` where all names have them.

    Raises:
        InputError: the file is missing, truncated, no checkpoint, or holds more than weights.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a .safetensors, .pt or .pth file")
    found = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    while True:
        inner = next((found[key] for key in WRAPPINGS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            break
        found = inner
    state = {str(name): value.detach() for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise InputError(f"{path}: holds no tensors by name (its keys: {', '.join(map(str, list(found)[:8]))}); "
                         "save the network's state_dict()")  # fmt: skip
    for prefix in ("module.", "_orig_mod."):
        while all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as e:
        raise InputError(f"{path}: not a complete safetensors file ({e}); copy it again") from None


def _pickled(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if "global" in str(e).lower():  # what a pickle calls a function or class that it wants
            raise InputError(
                f"{path}: holds more than weights, and reading it would run its code; refused, nothing was run. "
                "Where you trust it, load it there and save only its state_dict()"
            ) from None
        raise InputError(f"{path}: not a complete checkpoint ({_short(e)}); copy it again") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise InputError(f"{path}: not a complete checkpoint ({_short(e)}); copy it again") from None
    if not isinstance(found, Mapping):
        raise InputError(
            f"{path}: holds a {type(found).__name__}, not tensors by name; save the network's state_dict()"
        )
    return found


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def fit(own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> tuple[State, pd.DataFrame]:
    """A state's tensors under another's names, where they fit, and a table of what fits and what does not.

    A prefix such as ``model.`` is taken off, or put on, where more names then agree. A first kernel for another number
    of image channels is adapted: three channels to one by their sum (the same as feeding the grey image three times),
    one to several by an equal share each.

    Args:
        own: the state of the network to be served.
        other: the state that offers its tensors.

    Returns:
        The tensors that fit, by the names of ``own``; and one row per name: tensor, shape, shape_other, status
        (``same``, ``adapted``, ``other shape``, ``missing``: not offered, ``surplus``: not asked for).
    """
    other = _renamed(own, other)
    fitted: State = {}
    rows = []
    first_kernel = next((name for name, tensor in own.items() if tensor.ndim >= 3), None)
    for name, tensor in own.items():
        offered = other.get(name)
        status = "missing"
        if offered is not None:
            status = "same" if offered.shape == tensor.shape else "other shape"
            if status == "same":
                fitted[name] = offered
            elif name == first_kernel and (adapted := _with_channels(offered, tensor.shape)) is not None:
                fitted[name], status = adapted, "adapted"
        rows.append((name, _shape(tensor), _shape(offered), status))
    rows += [(name, "", _shape(tensor), "surplus") for name, tensor in other.items() if name not in own]
    return fitted, pd.DataFrame(rows, columns=["tensor", "shape", "shape_other", "status"])


def _renamed(own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    candidates = [other]
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in other):
            candidates.append({n.removeprefix(prefix): t for n, t in other.items() if n.startswith(prefix)})
        candidates.append({prefix + name: tensor for name, tensor in other.items()})
    return max(candidates, key=lambda state: len(own.keys() & state.keys()))


def _with_channels(kernel: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    if kernel.ndim != len(shape) or kernel.shape[0] != shape[0] or kernel.shape[2:] != shape[2:]:
        return None
    if shape[1] == 1:
        return kernel.sum(1, keepdim=True)
    return kernel.expand(shape) / shape[1] if kernel.shape[1] == 1 else None


def _shape(tensor: torch.Tensor | None) -> str:
    return "" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
