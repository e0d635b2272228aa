"""The parameter file: read, checked, and cut into the sections that each step depends on."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from prrmse.config.checks import check_params
from prrmse.errors import InputError
from prrmse.files import package_file, sha256_of, write_text
from prrmse.settings import ForeignNetwork, Networks, Params, StartingNetwork

# How the settings that errors speak of are called in ``params.yaml``.
PARAMETERS = {
    "root": "datasets.{}.root",
    "case_pattern": "datasets.{}.case_pattern",
    "frames": "datasets.{}.frames",
    "split": "datasets.{}.split",
    "spacing_mm": "datasets.{}.spacing_mm",
    "in_channels": "nets.{}.in_channels",
    "out_channels": "nets.{}.out_channels",
    "pretrained": "nets.{}.pretrained",
    "memory_mb": "swap.memory_mb",
    "evaluation_batch_size": "compute.evaluation_batch_size",
    "device": "compute.device",
    "learning_rate": "learning_rate",
}


def read_params(*paths: str | Path) -> Params:
    """Read and check a parameter file, and others whose keys replace its own, as ``--configfile`` does.

    Raises:
        InputError: a file is missing, not YAML, or `check_params` refuses the whole.
    """
    return check_params(_read_merged(*paths), " + ".join(str(path) for path in paths))


def use_params(overlay: str | Path, path: str | Path = "params.yaml") -> list[tuple[str, Any, Any]]:
    """Write the keys of another file into the parameter file, whose comments stay: both tools then see them.

    Returns:
        (key, old value, new value) of every change; None for a key that was not there.

    Raises:
        InputError: as `read_params`; then nothing is written.
    """
    from io import StringIO

    from ruamel.yaml import YAML

    read_params(path, overlay)
    yaml_with_comments = YAML()
    yaml_with_comments.width = 120
    document = yaml_with_comments.load(Path(path).read_text())
    changes = list(_write_into(document, yaml_with_comments.load(Path(overlay).read_text())))
    text = StringIO()
    yaml_with_comments.dump(document, text)
    write_text(text.getvalue(), path)
    return changes


def _write_into(document: Any, above: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key, value in above.items():
        old = document.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            yield from _write_into(old, value, f"{prefix}{key}.")
        elif key not in document or old != value:
            document[key] = value
            yield f"{prefix}{key}", old, value


def _read_merged(*paths: str | Path) -> Any:
    params: Any = {}
    for path in paths:
        params = _merge(params, _read(path))
    return params


def _merge(below: Any, above: Any) -> Any:
    """Mappings key by key; anything else is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _merge(below.get(key), value) for key, value in above.items()}}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: YAML would silently take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.MarkedYAMLError(None, None, f"key {key!r} stands twice", node.value[i][0].start_mark)
        return super().construct_mapping(node, deep)


def _read(path: str | Path) -> Any:
    try:
        with open(path, encoding="utf-8") as f:
            return yaml.load(f, _Loader)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run from the folder that holds params.yaml") from None
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({e})") from None
    except (yaml.YAMLError, ValueError, TypeError) as e:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None


def section(params: Mapping[str, Any], *keys: str) -> str:
    """These parts of the parameters, defaults included, as one JSON text with sorted keys.

    Each step is handed exactly the parts it reads, so that a change re-runs just the steps that depend on it; as sorted
    text, because Snakemake compares the text.

    Args:
        params: as read from YAML, checked.
        keys: dotted paths, e.g. ``transfer.train``.
    """
    return json.dumps({key: plain(_value(params, key)) for key in keys}, sort_keys=True)


def parse_sections(text: str) -> dict[str, Any]:
    """What `section` wrote: by key, an object of `prrmse.settings`, or a plain value."""
    return {key: _typed(key, value) for key, value in json.loads(text).items()}


def _value(params: Mapping[str, Any], key: str) -> Any:
    value: Any = params
    for part in key.split("."):
        if part not in value:
            found = _field(key)
            assert isinstance(found, FieldInfo), key  # checked before: only fields may be left out
            return found.get_default(call_default_factory=True)
        value = value[part]
    return _typed(key, value)


def _typed(key: str, value: Any) -> Any:
    found = _field(key)
    kind: Any = found.annotation if isinstance(found, FieldInfo) else found
    return TypeAdapter(kind).validate_json(json.dumps(value))


def plain(value: Any) -> Any:
    """Sections as what JSON has: dicts, lists, numbers, texts."""
    return TypeAdapter(Any).dump_python(value, mode="json")


def completed(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as read from YAML, checked, with the defaults of what they leave out.

    Files of pretrained weights are named with their hashes, so that what starts from them runs again where they change.
    """
    found = {key: _value(params, key) for key in Params.model_fields if key != "nets"}
    nets = {name: _with_hash(_value(params, f"nets.{name}")) for name in params["nets"]}
    complete: dict[str, Any] = plain({**found, "nets": nets})
    return complete


def _with_hash(network: StartingNetwork | None) -> StartingNetwork | None:
    weights = None if network is None else network.weights
    if network is None or weights is None or weights.file == "imagenet":
        return network
    path = package_file(weights.file)
    named = weights.model_copy(update={"sha256": weights.sha256 or sha256_of(path)})
    return network.model_copy(update={"pretrained": named})


def _field(key: str) -> Any:
    """The field (`FieldInfo`), or the type of the entries of a mapping, that a dotted path names."""
    found: Any = Params
    for part in key.split("."):
        kind = _bare(found.annotation if isinstance(found, FieldInfo) else found)
        if get_origin(kind) is dict:
            found = get_args(kind)[1]
        else:
            assert issubclass(kind, BaseModel), key
            found = kind.model_fields.get(part, ForeignNetwork if kind is Networks else None)
            assert found is not None, key
    return found


def _bare(kind: Any) -> Any:
    """Without ``| None``."""
    if get_origin(kind) in (Union, UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind
