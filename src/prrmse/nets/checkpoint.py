"""Checkpoints: safetensors with a self-describing header, written whole or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
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
from prrmse.nets.layers import norm_eps, tensor_names

LIBRARIES = ("torch", "torchvision", "numpy")


def save_checkpoint(network: nn.Module, path: str | Path, header: dict[str, Any]) -> None:
    """Write weights and buffers by their torch names; byte for byte the same for equal contents.

    A tensor that has several names in the network is stored once, by the first; the header's ``names`` lists the others
    by it.

    Args:
        network: whose ``state_dict`` is written, on the CPU.
        path: the file; written whole or not at all.
        header: JSON-able; at least ``net`` and ``arguments``, from which `load_network` rebuilds it. ``eps`` of each
            normalisation and versions of the libraries are added.
    """
    own = network.state_dict()
    names = tensor_names(own)
    libraries = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    shared = {first: others for first, (_, *others) in names.items() if others}
    header = {**header, "eps": norm_eps(network), "libraries": libraries, **({"names": shared} if shared else {})}
    with atomic(path) as partial:
        write_state({name: own[name] for name in names}, partial, header)


def write_state(state: Mapping[str, torch.Tensor], path: Path, header: Mapping[str, Any]) -> None:
    """Write tensors, each with memory of its own in the file, and a JSON-able header; not atomic."""
    # Clones: safetensors refuses tensors that are parts of one block of memory.
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    # One metadata key only: safetensors writes several in random order, which would change the bytes.
    save_file(tensors, path, metadata={"prrmse": json.dumps(header, sort_keys=True)})


def load_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU), by all of their names, and the header of a checkpoint.

    Raises:
        InputError: the file is missing, truncated, or was not written by `save_checkpoint`.
    """
    arrays, header = read_arrays(path)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    aliases = {other: state[name] for name, others in header.get("names", {}).items() for other in others}
    return {**state, **aliases}, header


def load_network(path: str | Path, factory: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, in evaluation mode, and the header.

    Args:
        path: the checkpoint.
        factory: import path of a network that is not ours. It must come from you: what a file names is not imported.

    Raises:
        InputError: as `load_checkpoint`; or the network is not ours and ``factory`` is not given; or it has other
            tensors than the file.
    """
    state, header = load_checkpoint(path)
    if header.get("factory") and not factory:
        raise InputError(f"{path}: of the network {header['factory']}; if you trust it, give that as --network")
    if "arguments" not in header:
        raise InputError(f"{path}: holds weights, not what network they are of; name it with --network")
    network = build_network(factory, header["arguments"]) if factory else build(header["net"], **header["arguments"])
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as e:
        raise InputError(
            f"{path}: does not fit {factory or header['net']} with the arguments in its header: "
            f"{' '.join(str(e).split())[:200]}; use the version of the library that it was written with"
        ) from None
    return network.eval(), header
