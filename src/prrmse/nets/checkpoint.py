"""Checkpoints: safetensors with a self-describing header, written whole or not at all."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save
from torch import nn

from prrmse.errors import InputError
from prrmse.files import atomic
from prrmse.names import KINDS, Layer
from prrmse.nets.arrays import ANEW, read_arrays
from prrmse.nets.build import build, build_network, opens_files
from prrmse.nets.layers import norm_eps, tensor_names
from prrmse.settings import Network, PSPNetArguments, Section, UNetArguments
from prrmse.versions import installed_versions

LIBRARIES = ("torch", "torchvision", "numpy")
DAMAGED = f"it is damaged, or was changed; {ANEW}"
ARGUMENTS: dict[str, type[Section]] = {"unet": UNetArguments, "pspnet": PSPNetArguments}


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
    libraries = {"python": platform.python_version(), **installed_versions(LIBRARIES)}
    shared = {first: others for first, (_, *others) in names.items() if others}
    header = {**header, "eps": norm_eps(network), "libraries": libraries, **({"names": shared} if shared else {})}
    with atomic(path) as partial:
        write_state({name: own[name] for name in names}, partial, header)


def built_from(net: str, spec: Network) -> dict[str, Any]:
    """What a header says of how its network is built.

    Args:
        net: its name.
        spec: its settings.
    """
    return {"net": net, "arguments": spec.keywords, **({"factory": spec.factory} if spec.factory else {})}


def write_state(state: Mapping[str, torch.Tensor], path: Path, header: Mapping[str, Any]) -> None:
    """Write tensors, each with memory of its own in the file, and a JSON-able header; not atomic."""
    # Clones: safetensors refuses tensors that are parts of one block of memory.
    tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    # One metadata key only: safetensors writes several in random order, which would change the bytes.
    path.write_bytes(save(tensors, metadata={"prrmse": json.dumps(header, sort_keys=True)}))


def load_checkpoint(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors (on the CPU), by all of their names, and the header of a checkpoint.

    Raises:
        InputError: the file is missing, truncated, or was not written by `save_checkpoint`.
    """
    arrays, header = read_arrays(path)
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    aliases = header.get("names", {})
    if not isinstance(aliases, dict) or not all(
        name in state and isinstance(others, list) and all(isinstance(other, str) for other in others)
        for name, others in aliases.items()
    ):
        raise InputError(f"{path}: its header names tensors that it does not hold; {DAMAGED}")
    return {**state, **{other: state[name] for name, others in aliases.items() for other in others}}, header


def layers_of(header: str, state: Mapping[str, torch.Tensor], path: str | Path) -> list[Layer]:
    """The layers that a header lists.

    Args:
        header: its JSON text.
        state: the tensors of the file.
        path: the file, for errors.

    Raises:
        InputError: it lists none, or others than the file holds.
    """
    try:
        found = [Layer(**layer) for layer in json.loads(header)["layers"]]
        scalars = [state[layer.tensor].numel() for layer in found]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path}: its header lists no layers, or others than it holds; {DAMAGED}") from None
    for layer, count in zip(found, scalars, strict=True):
        types = [type(value) for value in layer]
        if types != [str, int, str, str, int, bool] or layer.kind not in KINDS or layer.scalars != count:
            raise InputError(f"{path}: its header describes {layer.tensor} wrongly; {DAMAGED}")
    return found


def load_network(
    path: str | Path, factory: str | None = None, *, trust: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a checkpoint, in evaluation mode, and the header.

    Args:
        path: the checkpoint.
        factory: import path of a network that is not ours. It must come from you: what a file names is not imported.
        trust: as in `prrmse.nets.build.build_network`.

    Raises:
        InputError: as `load_checkpoint`; or the network is not ours and ``factory`` is not given; or it has other
            tensors than the file.
    """
    state, header = load_checkpoint(path)
    if header.get("factory") and not factory:
        raise InputError(f"{path}: of the network {header['factory']}; if you trust it, give that as --network")
    if "arguments" not in header:
        raise InputError(f"{path}: holds weights, not what network they are of; name it with --network")
    arguments = header["arguments"]
    if not factory:
        arguments = _checked_arguments(header, state, path)
    elif not isinstance(arguments, dict):
        raise InputError(f"{path}: its header holds no arguments of a network; {DAMAGED}")
    elif opens_files(arguments):  # whom you trust is the factory, not the one who wrote the file
        raise InputError(f"{path}: the arguments in its header open another file; such a checkpoint is not rebuilt")
    network = build_network(factory, arguments, trust=trust) if factory else build(header["net"], **arguments)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as e:
        raise InputError(
            f"{path}: does not fit {factory or header['net']} with the arguments in its header: "
            f"{' '.join(str(e).split())[:200]}; use the version of the library that it was written with"
        ) from None
    return network.eval(), header


def _checked_arguments(
    header: Mapping[str, Any], state: Mapping[str, torch.Tensor], path: str | Path
) -> dict[str, Any]:
    """The arguments of one of our networks, if it then has the file's tensors; found out without memory for them.

    Raises:
        InputError: they are none, or ask for other tensors: those of a damaged header can be gigabytes.
    """
    net = header.get("net")
    if not isinstance(net, str) or net not in ARGUMENTS:
        raise InputError(f"{path}: its header names the network {str(net)[:80]!r}; known are {', '.join(ARGUMENTS)}")
    try:
        arguments: dict[str, Any] = ARGUMENTS[net].model_validate(header["arguments"]).model_dump()
        with torch.device("meta"):
            wanted = build(net, **arguments).state_dict()
    except (ValidationError, RuntimeError, ValueError, TypeError):
        raise InputError(f"{path}: its header holds no arguments of {net}; {DAMAGED}") from None
    odd = [
        x
        for x in wanted.keys() | state.keys()
        if x not in wanted or x not in state or wanted[x].shape != state[x].shape
    ]
    if odd:
        raise InputError(
            f"{path}: does not fit {net} with the arguments in its header: {len(odd)} tensors differ, e.g. {min(odd)}; "
            "use the version of the library that it was written with"
        )
    return arguments
