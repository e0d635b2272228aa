"""Parameters: read, checked, and cut into the sections that each step depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from prrmse.errors import InputError

Params = dict[str, Any]


def read_params(*paths: str | Path) -> Params:
    """Read and check a parameter file, and others whose keys replace its own, as ``--configfile`` does.

    Raises:
        InputError: a file is missing, not YAML, or `check_params` refuses the whole.
    """
    params: Params = {}
    for path in paths:
        params = _merge(params, _read(path))
    return check_params(params, " + ".join(str(path) for path in paths))


def use_params(overlay: str | Path, path: str | Path = "params.yaml") -> list[tuple[str, Any, Any]]:
    """Write the keys of another file into the parameter file, whose comments stay: both tools then see them.

    Returns:
        (key, old value, new value) of every change; None for a key that was not there.

    Raises:
        InputError: as `read_params`; then nothing is written.
    """
    from ruamel.yaml import YAML

    read_params(path, overlay)
    yaml_with_comments = YAML()
    yaml_with_comments.width = 120
    document = yaml_with_comments.load(Path(path).read_text())
    changes = list(_write_into(document, yaml_with_comments.load(Path(overlay).read_text())))
    partial = Path(f"{path}.partial")
    with open(partial, "w") as f:
        yaml_with_comments.dump(document, f)
    os.replace(partial, path)
    return changes


def _write_into(document: Any, above: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key, value in above.items():
        old = document.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            yield from _write_into(old, value, f"{prefix}{key}.")
        elif key not in document or old != value:
            document[key] = value
            yield f"{prefix}{key}", old, value


def _merge(below: Any, above: Any) -> Any:
    """Mappings key by key; anything else is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _merge(below.get(key), value) for key, value in above.items()}}


def _read(path: str | Path) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the folder that holds params.yaml") from None
    except yaml.YAMLError as e:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None


def schema() -> dict[str, Any]:
    """The JSON schema of the parameters."""
    return dict(json.loads((files("prrmse") / "params.schema.json").read_text()))


def check_params(params: Any, where: str = "params.yaml") -> Params:
    """Check types, ranges and cross-references; the parameters themselves if all is well.

    Raises:
        InputError: one line naming the key, what is wrong and what is allowed.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema()).iter_errors(params))
    if error is not None:
        key = ".".join(str(part) for part in error.absolute_path) or "the top level"
        raise InputError(f"{where}: {key}: {_explain(error)}")
    _check_references(params, where)
    return dict(params)


def _explain(error: Any) -> str:
    message = error.message
    if error.validator == "type" and error.validator_value == "number" and isinstance(error.instance, str):
        message += " (YAML reads 1e-3 as text; write 0.001 or 1.0e-3)"
    description = error.schema.get("description")
    return f"{message} [{description}]" if description and error.validator != "additionalProperties" else message


def _check_references(params: Params, where: str) -> None:
    known = models(params)

    def must_know(key: str, name: str) -> None:
        if name not in known:
            raise InputError(f"{where}: {key}: unknown model {name!r}; known are {', '.join(known)}")

    def must_have(key: str, net: str) -> None:
        if net not in params["nets"]:
            raise InputError(f"{where}: {key}: {net} is not among nets ({', '.join(params['nets'])})")

    def must_segment(key: str, name: str) -> None:
        must_know(key, name)
        if not name.endswith("-seg"):
            raise InputError(f"{where}: {key}: {name} is no segmentation model; Dice needs one, e.g. acdc-seg")

    for target, sources in params["swap"]["sources"].items():
        must_segment(f"swap.sources.{target}", target)
        for source in sources:
            must_know(f"swap.sources.{target}", source)
    transfer = params["transfer"]
    must_segment("transfer.target", transfer["target"])
    if transfer["target"] not in params["swap"]["sources"]:
        raise InputError(f"{where}: transfer.target: {transfer['target']} has no entry in swap.sources; add one")
    for source in transfer["sources"]:
        must_know("transfer.sources", source)
    for net in transfer["nets"]:
        must_have("transfer.nets", net)
        if transfer["plan"] == "paper" and net != "pspnet":
            raise InputError(f"{where}: transfer.plan: the paper prints a list for pspnet only; use verdict for {net}")
        missing = set(transfer["sources"]) - set(params["swap"]["sources"].get(transfer["target"], []))
        if transfer["plan"] == "verdict" and missing:
            raise InputError(
                f"{where}: transfer.plan: verdict needs swap.sources.{transfer['target']} to list {sorted(missing)}"
            )
    for source in params["evidence"]["sources"]:
        must_know("evidence.sources", source)
        if source == transfer["target"]:
            raise InputError(f"{where}: evidence.sources: {source} is the target itself (transfer.target)")
    for net in params["evidence"]["nets"]:
        must_have("evidence.nets", net)


def check_data(params: Params) -> None:
    """Check that every data set that is not generated can be found, and that the networks fit its channels and classes.

    Raises:
        InputError: names the key, the path and where the data can be had; or the network.
    """
    own = {name: spec for name, spec in params["datasets"].items() if not spec.get("phantom")}
    if own:
        from prrmse.data.prepare import check  # most of a second, at each start of Snakemake

        for name, spec in own.items():
            found = check(name, spec)
            for net, of in params["nets"].items():
                key = f"nets.{net}." if "factory" in of else f"nets.{net}.arguments."
                if found.channels not in (1, image_channels(of)):
                    raise InputError(
                        f"nets.{net}: takes {image_channels(of)} image channels, datasets.{name} has "
                        f"{found.channels}; set {key}in_channels: {found.channels}"
                    )
                if found.classes > out_channels(of):
                    raise InputError(
                        f"nets.{net}: puts out {out_channels(of)} classes, datasets.{name} has {found.classes} with "
                        f"the background; set {key}out_channels: {found.classes}"
                    )


def check_networks(params: Params) -> None:
    """Check that every network that is not ours can be built.

    Raises:
        InputError: names the key, and what is wrong.
    """
    for name, spec in params["nets"].items():
        if "factory" in spec:
            from prrmse.layers import inventory  # imports torch
            from prrmse.nets import build_network

            try:
                pairs = inventory(build_network(spec["factory"], spec["arguments"]))
            except InputError as e:
                raise InputError(f"nets.{name}.factory: {e}") from None
            if not pairs:
                raise InputError(f"nets.{name}.factory: {spec['factory']} has no convolution and no normalisation")


def out_channels(spec: Mapping[str, Any]) -> int:
    """Classes that a network of ``nets.*`` puts out, the background included."""
    return int(spec["out_channels"] if "factory" in spec else spec["arguments"].get("out_channels", 4))


def image_channels(spec: Mapping[str, Any]) -> int:
    """Channels that it wants an image to have; a grey image is repeated."""
    return int(spec["in_channels"] if "factory" in spec else spec["arguments"].get("in_channels", 1))


def models(params: Params) -> list[str]:
    """Ids of all base models: ``{dataset}-{task}``."""
    return [f"{dataset}-{task}" for dataset in params["datasets"] for task in params["tasks"]]


def split_model(model: str) -> tuple[str, str]:
    """(data set, task) of a base model's id."""
    dataset, task = model.rsplit("-", 1)
    return dataset, task


def section(params: Params, *keys: str) -> str:
    """These parts of the parameters, as one JSON text with sorted keys.

    Each step is handed exactly the parts it reads, so that a change re-runs just the steps that
    depend on it; as sorted text, because Snakemake compares the text. A key is a dotted path.
    """
    cut = {}
    for key in keys:
        value: Any = params
        for part in key.split("."):
            value = value[part]
        cut[key] = value
    return json.dumps(cut, sort_keys=True)
