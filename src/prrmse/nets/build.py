"""The networks by name or by import path, and how they are initialised."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from prrmse.errors import InputError
from prrmse.nets.pspnet import PSPNet
from prrmse.nets.unet import UNet
from prrmse.seeding import derive_seed

NETS: dict[str, type[UNet] | type[PSPNet]] = {"unet": UNet, "pspnet": PSPNet}
# Packages whose networks are built without asking: their classes make nothing of their arguments but networks.
# nnU-Net's own factory is not among them, since it imports and calls whatever its arguments name.
KNOWN = (
    "prrmse.nets",
    "torch.nn",
    "torchvision.models",
    "monai.networks",
    "segmentation_models_pytorch",
    "timm",
    "dynamic_network_architectures",
)
# Arguments and names of models by which timm opens a file of the caller's, a pickle perhaps, which can run any code.
OPENING = ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
ELSEWHERE = ("hf-hub:", "hf_hub:", "local-dir:")


def build(net: str, **arguments: Any) -> UNet | PSPNet:
    """One of our networks by its name, with torch's own initialisation (unseeded: see `seeded_network`)."""
    if net not in NETS:
        raise InputError(f"unknown network {net!r}; known are {', '.join(NETS)}, others need a factory")
    return NETS[net](**arguments)


def needs_trust(spec: str, arguments: Mapping[str, Any]) -> bool:
    """Whether building this network may run code that nobody vouches for; told by its name, nothing is imported."""
    module, _, name = spec.partition(":")
    return bool(name) and (not is_known(module) or opens_files(arguments))


def opens_files(arguments: Mapping[str, Any]) -> bool:
    """Whether a network of a known package may open a file that its arguments name, and with it run code."""
    named = any(isinstance(value, str) and value.startswith(ELSEWHERE) for value in arguments.values())
    return named or any(key in arguments for key in OPENING)


def is_known(module: str) -> bool:
    """Whether a module, or what is in it, is of a package in `KNOWN`; told by its name, nothing is imported."""
    return any(module == known or module.startswith(f"{known}.") for known in KNOWN)


def build_network(spec: str, arguments: Mapping[str, Any], *, trust: bool = False) -> nn.Module:
    """A network by name (``unet``, ``pspnet``) or by import path, e.g. ``torchvision.models:resnet18``.

    Args:
        spec: the name; or ``package.module:callable``, which is imported and called. Only you may name it: it is never
            read from a checkpoint.
        arguments: keyword arguments of the callable.
        trust: run it wherever it comes from. Otherwise it must be a network of a package in `KNOWN`, or a function
            there that says it returns one.

    Raises:
        InputError: it is not trusted (then nothing of it was imported, or only a known package), cannot be imported,
            called, or makes no ``torch.nn.Module``.
    """
    factory: Any = NETS.get(spec)
    if factory is None:
        module, _, name = spec.partition(":")
        if not name:
            raise InputError(f"network {spec!r}: neither one of {', '.join(NETS)} nor an import path module:callable")
        if not trust and needs_trust(spec, arguments):
            raise _not_trusted(spec)
        try:
            factory = importlib.import_module(module)
            for part in name.split("."):
                factory = getattr(factory, part)
        except Exception as e:  # importing can fail in any way
            raise InputError(f"network {spec}: cannot be imported ({_line(e)}); install it or fix the path") from None
        if not trust and not _gives_network(factory):
            raise _not_trusted(spec)
    try:
        network = factory(**arguments)
    except TypeError as e:
        raise InputError(f"network {spec}: {_refusal(e, factory, arguments)}") from None
    except MemoryError:
        raise
    except Exception as e:
        raise InputError(f"network {spec}: cannot be built with these arguments ({_line(e)}); correct them") from None
    if not isinstance(network, nn.Module):
        raise InputError(f"network {spec}: gives a {type(network).__name__}, not a torch.nn.Module")
    return network


def _not_trusted(spec: str) -> InputError:
    return InputError(
        f"network {spec}: is of none of the packages that are known ({', '.join(KNOWN)}) and its code would be run; "
        "read it, then state that you trust it by <trust>"
    )


def _gives_network(factory: Any) -> bool:
    """A class of networks of a known package, or a function there that says it returns a network.

    A path may lead out of the package that it begins with (``torch.nn:modules.module.os.system``); and not every
    function of a package of networks is harmless, e.g. those that open checkpoints.
    """
    if not is_known(str(getattr(factory, "__module__", ""))):
        return False
    if isinstance(factory, type):
        return issubclass(factory, nn.Module)
    returned = _annotations(factory).get("return")
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Of its arguments and of what it returns; none where they name what is not there."""
    try:
        return get_type_hints(function)
    except Exception:
        return {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def seeded_network(spec: str, arguments: Mapping[str, Any], *identity: object, trust: bool = False) -> nn.Module:
    """`build_network` whose random draws derive from what they are for (`prrmse.seeding.derive_seed`)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*identity))
        return build_network(spec, arguments, trust=trust)


def _refusal(error: TypeError, factory: Any, arguments: Mapping[str, Any]) -> str:
    """Why these arguments are of a wrong type; also where a class is wanted, since JSON and YAML have none."""
    said = f"{_line(error)}; it takes {_signature(factory)}"
    is_class = isinstance(factory, type)
    hints = _annotations(factory.__init__ if is_class else factory)
    named = [key for key, value in arguments.items() if isinstance(value, str) and _is_of_classes(hints.get(key))]
    if not named:
        return said
    return (
        f"{_line(error)}; {', '.join(named)}: a class is wanted, which cannot be named here; "
        "nnunetv2.utilities.get_network_from_plans:get_network_from_plans builds the networks of nnU-Net's plans "
        "from names (on the command line: --nnunet-plans)"
    )


def _is_of_classes(hint: Any) -> bool:
    """Whether only a class will do: ``type[X]``, or a union with it in which no text is allowed."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return str not in parts and any(map(_is_of_classes, parts))
    return get_origin(hint) is type


def _signature(factory: Callable[..., Any]) -> str:
    try:
        return str(inspect.signature(factory))
    except (TypeError, ValueError):
        return "other arguments"
