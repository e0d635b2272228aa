"""The networks by name or by import path, and how they are initialised."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prrmse.errors import InputError
from prrmse.nets.pspnet import PSPNet
from prrmse.nets.unet import UNet
from prrmse.seeding import derive_seed

NETS: dict[str, type[UNet] | type[PSPNet]] = {"unet": UNet, "pspnet": PSPNet}


def build(net: str, **arguments: Any) -> UNet | PSPNet:
    """One of our networks by its name, with torch's own initialisation (unseeded: see `initialise`)."""
    if net not in NETS:
        raise InputError(f"unknown network {net!r}; known are {', '.join(NETS)}, others need a factory")
    return NETS[net](**arguments)


def build_network(spec: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A network by name (``unet``, ``pspnet``) or by import path, e.g. ``torchvision.models:resnet18``.

    Args:
        spec: the name; or ``package.module:callable``, which is imported and called. Only you may name it: it is never
            read from a checkpoint.
        arguments: keyword arguments of the callable.

    Raises:
        InputError: it cannot be imported, called, or makes no ``torch.nn.Module``.
    """
    factory: Any = NETS.get(spec)
    if factory is None:
        module, _, name = spec.partition(":")
        if not name:
            raise InputError(f"network {spec!r}: neither one of {', '.join(NETS)} nor an import path module:callable")
        try:
            factory = importlib.import_module(module)
            for part in name.split("."):
                factory = getattr(factory, part)
        except (ImportError, AttributeError) as e:
            raise InputError(f"network {spec}: cannot be imported ({e}); install it or fix the path") from None
    try:
        network = factory(**arguments)
    except TypeError as e:
        raise InputError(f"network {spec}: {e}; it takes {_signature(factory)}") from None
    if not isinstance(network, nn.Module):
        raise InputError(f"network {spec}: gives a {type(network).__name__}, not a torch.nn.Module")
    return network


def seeded_network(spec: str, arguments: Mapping[str, Any], *identity: object) -> nn.Module:
    """`build_network` whose random draws derive from what they are for (`prrmse.seeding.derive_seed`)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*identity))
        return build_network(spec, arguments)


def _signature(factory: Any) -> str:
    try:
        return str(inspect.signature(factory))
    except (TypeError, ValueError):
        return "other arguments"
