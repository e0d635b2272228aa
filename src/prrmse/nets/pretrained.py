"""Weights that a network starts from: a file, a file of an installed package, or torchvision's ImageNet weights."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pandas as pd
from torch import nn

from prrmse.errors import InputError
from prrmse.files import package_file, sha256_of
from prrmse.nets.foreign import State, fit, read_state, same_but_channels
from prrmse.nets.pspnet import PSPNet
from prrmse.settings import Pretrained

log = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"  # older files have none
FITS = ["same", "adapted"]


def load_pretrained(net: str, network: nn.Module, spec: Pretrained) -> pd.DataFrame:
    """Load weights into a network or a part of it, in place, where they fit.

    Args:
        net: the network's name, for messages.
        network: at its random initialisation, which stays where nothing fits.
        spec: which weights. A part that is named has to be served wholly. For our PSPNet ``imagenet`` are
            torchvision's of ResNet-18, which it downloads.

    Returns:
        Of `prrmse.nets.foreign.fit`: a row for each tensor of the part, and for each that the file has beyond it.

    Raises:
        InputError: the file, package or part is missing, the file is no checkpoint or has another hash, nothing fits,
            names cannot be matched, or a tensor of the part is left without weights.
    """
    try:
        return _load(network, spec, _offered(network, spec))
    except InputError as e:
        raise InputError(f"<pretrained:{net}>: {e}") from None


def _offered(network: nn.Module, spec: Pretrained) -> State:
    if spec.file == "imagenet":
        if not isinstance(network, PSPNet):
            raise InputError("imagenet: known for pspnet only; name a file, or let the factory's arguments load it")
        return _imagenet_resnet18()
    path = package_file(spec.file)
    state = read_state(path, spec.entry)
    if spec.sha256 is not None and spec.sha256 != sha256_of(path):
        raise InputError(f"{path}: is not the file with the SHA-256 {spec.sha256}")
    return state


def _load(network: nn.Module, spec: Pretrained, offered: State) -> pd.DataFrame:
    own = {n.removeprefix(spec.part): t for n, t in network.state_dict().items() if n.startswith(spec.part)}
    if not own:
        parts = ", ".join(f"{name}." for name, _ in network.named_children())
        raise InputError(f"part {spec.part}: the network has no tensor of such a name; its parts are {parts}")
    if spec.match == "order":
        offered = _by_order(own, offered, spec.file)
    elif spec.match != "name":
        offered = _by_mapping(own, offered, Path(spec.match))
        if spec.match_sha256 is not None and spec.match_sha256 != sha256_of(spec.match):
            raise InputError(f"match {spec.match}: is not the file with the SHA-256 {spec.match_sha256}")
    fitted, table = fit(own, offered)
    table = table.assign(tensor=table["tensor"].where(table["status"] == "surplus", spec.part + table["tensor"]))
    if spec.part:
        _must_be_whole(table, spec)
    served = table[table["status"].isin(FITS) & ~table["tensor"].str.endswith(COUNTER)]
    if served.empty:
        raise InputError(f"{spec.file}: no tensor fits by {spec.match}; `prrmse compare` lists names and shapes")
    network.load_state_dict({spec.part + name: tensor for name, tensor in fitted.items()}, strict=False)
    log.info("pretrained: %s: %s", spec.file, summary(table))
    return table


def summary(table: pd.DataFrame) -> str:
    """What fits and what does not, in one line."""
    own, counts = table[table["status"] != "surplus"], table["status"].value_counts()
    text = f"{int(own['status'].isin(FITS).sum())} of {len(own)} tensors start from it"
    rest = [f"{n} {status}" for status, n in counts.items() if status not in FITS]
    return f"{text} ({', '.join(rest)})" if rest else text


def _by_order(own: State, offered: State, file: str) -> State:
    """The offered tensors under the network's names, one by one; those left over at the end keep theirs.

    Raises:
        InputError: there are too few, or a shape differs.
    """
    mine = [name for name in own if not name.endswith(COUNTER)]
    theirs = [name for name in offered if not name.endswith(COUNTER)]
    if len(theirs) < len(mine):
        raise InputError(f"{file}: {len(theirs)} tensors for {len(mine)} of the network; match by name, or a part")
    pairs = dict(zip(mine, theirs, strict=False))
    for name, other in pairs.items():
        if not same_but_channels(offered[other], own[name]):
            shapes = tuple(offered[other].shape), tuple(own[name].shape)
            raise InputError(f"{file}: not in the network's order: {other} {shapes[0]} meets {name} {shapes[1]}")
    left = {name: offered[name] for name in theirs[len(mine) :] if name not in own}
    return {**{name: offered[other] for name, other in pairs.items()}, **left}


def _by_mapping(own: State, offered: State, mapping: Path) -> State:
    """The offered tensors under the names that a JSON object says.

    Raises:
        InputError: it cannot be read, or names what the network or the file has not.
    """
    try:
        if not mapping.is_file():  # a pipe would block for ever
            raise FileNotFoundError("no such file")
        names = json.loads(mapping.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"match {mapping}: neither name, order nor a JSON file that can be read ({e})") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"match {mapping}: must be one object, the network's names to the file's")
    for name, other in names.items():
        if name not in own or other not in offered:
            odd = f"the network has no {name}" if name not in own else f"the file has no {other}"
            raise InputError(f"match {mapping}: {odd}")
    return {name: offered[other] for name, other in names.items()}


def _imagenet_resnet18() -> State:
    from torchvision.models import ResNet18_Weights

    try:
        return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True))
    except OSError as e:
        raise InputError(
            f"imagenet weights could not be downloaded ({e}); "
            "download torchvision's resnet18-f37072fd.pth elsewhere and name the file instead"
        ) from None


def _must_be_whole(table: pd.DataFrame, spec: Pretrained) -> None:
    odd = table[table["status"].isin(["missing", "other shape"]) & ~table["tensor"].str.endswith(COUNTER)]
    if len(odd):
        first = odd.iloc[0]
        detail = f"{first['tensor']} has shape {first['shape_other']}, not" if first["shape_other"] else "no tensor"
        detail += f" {first['shape']}" if first["shape_other"] else f" {first['tensor']}"
        raise InputError(f"{spec.file} does not fit all of part {spec.part}: {detail}")
