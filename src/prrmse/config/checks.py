"""What has to be right about the parameters before anything long starts."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from prrmse.errors import InputError
from prrmse.failures import did_you_mean, one_line
from prrmse.files import is_file, package_file
from prrmse.names import models, split_model
from prrmse.phantom.options import OPTIONS, checked_options
from prrmse.settings import ForeignNetwork, Network, Params, Section


def check_params(params: Any, where: str = "params.yaml") -> Params:
    """Check types, ranges and cross-references; the parameters as typed sections if all is well.

    Args:
        params: as read from YAML.
        where: the file, for messages.

    Raises:
        InputError: one line naming the key, what is wrong and what is allowed.
    """
    try:
        # By way of JSON, in which a list is what YAML calls one and a number is no text.
        found = Params.model_validate_json(json.dumps(params, default=str))
    except ValidationError as e:
        raise InputError(f"{where}: {one_line(_explain(e))}") from None
    except (ValueError, TypeError, RecursionError) as e:  # e.g. keys that are no text
        raise InputError(f"{where}: {' '.join(str(e).split())[:300]}; fix it") from None
    _check_references(found, where)
    return found


def check_tracking(name: str) -> None:
    """Refuse a tracker whose package is not installed; nothing is imported.

    Raises:
        InputError: names the package.
    """
    if name != "none" and find_spec(name) is None:
        raise InputError(f"tracking: the package {name} is not installed; pip install {name}, or set tracking: none")


def check_container(image: str | None) -> None:
    """Refuse an image that is neither a file nor a URL.

    Raises:
        InputError: names it.
    """
    if image is not None and "://" not in image and not is_file(image):
        raise InputError(
            f"container: {image}: no such file; build it (docs/cluster.md), name an image by its URL, or leave it out"
        )


S = TypeVar("S", bound=Section)


def checked(section: type[S], **values: Any) -> S:
    """A section from single values, e.g. of a command line.

    Raises:
        InputError: names the value as a setting (`InputError`), what is wrong and what it means.
    """
    try:
        return section.model_validate(values)
    except ValidationError as e:
        found = e.errors(include_url=False)[0]
        name = str(found["loc"][0])
        meaning = section.model_fields[name].description
        raise InputError(f"<{name}>: {found['msg']}, not {json.dumps(found['input'])} [{meaning}]") from None


def _explain(error: ValidationError) -> str:
    """The first defect; one of an unknown key before the others, since a typo brings a missing key with it."""
    found = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")[0]
    key = ".".join(str(part) for part in found["loc"]) or "the top level"
    if found["type"] == "extra_forbidden":
        return unknown_key(key)
    if found["type"] == "missing":
        return f"{key}: is missing; `prrmse params` says what it means"
    message = f"{key}: {found['msg']}, not {json.dumps(found['input'], default=str)[:80]}"
    if found["type"] in ("float_type", "int_type") and isinstance(found["input"], str):
        message += " (YAML reads 1e-3 as text; write 0.001 or 1.0e-3)"
    description = _description(found["loc"])
    return f"{message} [{description}]" if description else message


def unknown_key(key: str) -> str:
    """What is said of a key, given with those above it, that is none of the parameters."""
    hint = did_you_mean(key.rpartition(".")[2], _known_keys())
    return f"{key}: unknown key{hint}; `prrmse params` lists all that there are"


def _known_keys() -> set[str]:
    from prrmse.config.reference import keys

    return {key.rpartition(".")[2] for key in keys()}


def _description(location: tuple[int | str, ...]) -> str:
    from prrmse.config.reference import described

    return described(".".join(str(part) for part in location))


def network_items(params: Params) -> Iterator[tuple[str, Network]]:
    """The networks that the parameters name."""
    own = {"unet": params.nets.unet, "pspnet": params.nets.pspnet, **params.nets.foreign}
    return ((name, spec) for name, spec in own.items() if spec is not None)


def _check_references(params: Params, where: str) -> None:
    known = models(params.datasets, params.tasks)
    nets = dict(network_items(params))
    if not nets:
        raise InputError(f"{where}: nets: names no network")

    def must_know(key: str, name: str) -> None:
        if name not in known:
            raise InputError(f"{where}: {key}: unknown model {name!r}; known are {', '.join(known)}")

    def must_have(key: str, net: str) -> None:
        if net not in nets:
            raise InputError(f"{where}: {key}: {net} is not among nets ({', '.join(nets)})")

    def must_segment(key: str, name: str) -> None:
        must_know(key, name)
        if not name.endswith("-seg"):
            raise InputError(f"{where}: {key}: {name} is no segmentation model; Dice needs one, e.g. acdc-seg")

    for name, spec in params.datasets.items():
        if spec.phantom and (options := OPTIONS.get(spec.format)):
            try:
                checked_options(options, spec.phantom.options)
            except InputError as error:
                raise InputError(f"{where}: datasets.{name}.phantom.options: {error}") from None
    roots = {name: Path(os.path.normpath(Path.cwd() / dataset.root)) for name, dataset in params.datasets.items()}
    for one, other in itertools.combinations(params.datasets, 2):
        first, second = roots[one], roots[other]
        overlap = first == second or first in second.parents or second in first.parents
        if overlap and (params.datasets[one].phantom or params.datasets[other].phantom):
            kind = "phantom" if params.datasets[one].phantom else "data set"
            raise InputError(
                f"{where}: datasets.{other}.root: {params.datasets[other].root} is that of the {kind} {one}, in it or "
                "around it; name another"
            )
    swaps = params.swap.sources
    for target, sources in swaps.items():
        must_segment(f"swap.sources.{target}", target)
        for source in sources:
            must_know(f"swap.sources.{target}", source)
    transfer = params.transfer
    must_segment("transfer.target", transfer.target)
    if transfer.target not in swaps:
        raise InputError(f"{where}: transfer.target: {transfer.target} has no entry in swap.sources; add one")
    for source in transfer.sources:
        must_know("transfer.sources", source)
    for net in transfer.nets:
        must_have("transfer.nets", net)
        if transfer.plan == "paper" and net != "pspnet":
            raise InputError(f"{where}: transfer.plan: the paper prints a list for pspnet only; use verdict for {net}")
        missing = set(transfer.sources) - set(swaps.get(transfer.target, ()))
        if transfer.plan == "verdict" and missing:
            raise InputError(
                f"{where}: transfer.plan: verdict needs swap.sources.{transfer.target} to list {sorted(missing)}"
            )
    for source in params.evidence.sources:
        must_know("evidence.sources", source)
        if source == transfer.target:
            raise InputError(f"{where}: evidence.sources: {source} is the target itself (transfer.target)")
    for net in params.evidence.nets:
        must_have("evidence.nets", net)
    if (study := params.study) is None:
        return
    for net in (*study.nets, *study.connect, *itertools.chain.from_iterable(study.ancestry.values())):
        must_have("study", net)
    for source in study.sources:
        must_know("study.sources", source)
    for name, recipe in study.recipes.items():
        must_have(f"study.recipes.{name}", recipe.net)
        must_segment(f"study.recipes.{name}", recipe.model)
    for target in study.listed or ():
        if target not in study.targets:
            raise InputError(f"{where}: study.listed: {target} is not among study.targets")
    for target in study.targets:
        must_segment("study.targets", target)
        dataset = split_model(target)[0]
        if params.datasets[dataset].split.kind in ("random", "ordered") and not params.datasets[dataset].split.test:
            raise InputError(f"{where}: datasets.{dataset}.split.test: the study reports on test patients; set it")
        if all(split_model(source)[0] == dataset for source in study.sources):
            raise InputError(f"{where}: study.sources: no model of another data set than {target}'s; add one")


def check_data(params: Params) -> None:
    """Check that every data set that is not generated can be found, and that the networks fit its channels and classes.

    Raises:
        InputError: names the key, the path and where the data can be had; or the network.
    """
    own = {name: spec for name, spec in params.datasets.items() if not spec.phantom}
    if not own:
        return
    from prrmse.data.prepare import check, raw_files  # most of a second, at each start of Snakemake

    for name, dataset in own.items():
        found = check(name, dataset)
        for file in map(Path, raw_files(dataset.format, dataset.root)):
            if file.is_file() and file.stat().st_mtime > time.time():  # Snakemake fails jobs that read it
                raise InputError(
                    f"datasets.{name}.root: {file}: its time is in the future, so whatever is made of it would look "
                    f"out of date; set the clock, or: touch {shlex.quote(str(file))}"
                )
        for net, spec in network_items(params):
            key = f"nets.{net}." if spec.factory else f"nets.{net}.arguments."
            if found.channels not in (1, spec.image_channels):
                raise InputError(
                    f"nets.{net}: takes {spec.image_channels} image channels, datasets.{name} has {found.channels}; "
                    f"set {key}in_channels: {found.channels}"
                )
            if found.classes > spec.classes:
                raise InputError(
                    f"nets.{net}: puts out {spec.classes} classes, datasets.{name} has {found.classes} with the "
                    f"background; set {key}out_channels: {found.classes}"
                )


def check_networks(params: Params, *, run_trusted: bool = True) -> list[str]:
    """Check that every network that is not ours can be built, and that the weights that one starts from are there.

    Args:
        params: checked.
        run_trusted: build also those that run only because ``trust`` says so.

    Returns:
        The names of those that were not built for that reason.

    Raises:
        InputError: names the key, and what is wrong.
    """
    for name, spec in network_items(params):
        if spec.weights is not None and spec.weights.file != "imagenet":
            try:
                path = package_file(spec.weights.file)
            except InputError as e:
                raise InputError(f"nets.{name}.pretrained: {e}") from None
            if not is_file(path):
                raise InputError(f"nets.{name}.pretrained: {path}: no such file; name a .safetensors, .pt or .pth file")
    foreign: Mapping[str, ForeignNetwork] = params.nets.foreign
    left = []
    for name, spec in foreign.items():
        from prrmse.nets.build import build_network, needs_trust
        from prrmse.nets.layers import inventory  # imports torch

        if spec.trust and not run_trusted and needs_trust(spec.factory, spec.keywords):
            left.append(name)
            continue
        try:
            pairs = inventory(build_network(spec.factory, spec.keywords, trust=spec.trust and run_trusted))
        except InputError as e:
            raise InputError(f"nets.{name}.factory: {e.args[0]}".replace("<trust>", f"<trust:{name}>")) from None
        if not pairs:
            raise InputError(f"nets.{name}.factory: {spec.factory} has no convolution and no normalisation")
    return left
