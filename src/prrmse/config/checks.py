"""What has to be right about the parameters before anything long starts."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from prrmse.errors import InputError
from prrmse.names import image_channels, models, out_channels

Params = dict[str, Any]


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
            from prrmse.nets.build import build_network
            from prrmse.nets.layers import inventory  # imports torch

            try:
                pairs = inventory(build_network(spec["factory"], spec["arguments"]))
            except InputError as e:
                raise InputError(f"nets.{name}.factory: {e}") from None
            if not pairs:
                raise InputError(f"nets.{name}.factory: {spec['factory']} has no convolution and no normalisation")
