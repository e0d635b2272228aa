"""Checkpoints: safetensors with a self-describing header, written whole or not at all."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from prrmse.errors import InputError
from prrmse.files import atomic
from prrmse.nets.arrays import read_arrays
from prrmse.nets.build import build, build_network
from prrmse.nets.layers import norm_eps

LIBRARIES = ("torch", "torchvision", "numpy")


def save_checkpoint(network: nn.Module, path: str | Path, header: dict[str, Any]) -> None:
    """Write weights and buffers by their torch names; byte for byte the same for equal contents.

    Args:
        network: whose ``state_dict`` is written, on the CPU.
        path: the file; written whole or not at all.
        header: JSON-able; at least ``net`` and ``arguments``, from which `load_network` rebuilds it. ``eps`` of each
            normalisation and versions of the libraries are added.
    """
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    header = {**header, "eps": norm_eps(network)}
    libraries = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    # One metadata key only: safetensors writes several in random order, which would change the bytes.
    metadata = {"prrmse": json.dumps({**header, "libraries": libraries}, sort_keys=True)}
    with atomic(path) as partial:
        save_file(tensors, partial, metadata=metadata)


def load_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the header of a checkpoint.

    Raises:
        InputError: the file is missing, truncated, or was not written by `save_checkpoint`.
    """
    arrays, header = read_arrays(path)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, header


def load_network(path: str | Path, factory: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, in evaluation mode, and the header.

    Args:
        path: the checkpoint.
        factory: import path of a network that is not ours. It must come from you: what a file names is not imported.

    Raises:
        InputError: as `load_checkpoint`; or the network is not ours and ``factory`` is not given.
    """
    state, header = load_checkpoint(path)
    if header.get("factory") and not factory:
        raise InputError(f"{path}: of the network {header['factory']}; if you trust it, give that as --network")
    network = build_network(factory, header["arguments"]) if factory else build(header["net"], **header["arguments"])
    network.load_state_dict(state, strict=True)
    return network.eval(), header
