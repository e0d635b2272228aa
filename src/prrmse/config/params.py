"""The parameter file: read, checked, and cut into the sections that each step depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from prrmse.config.checks import check_params, unknown_key
from prrmse.data.reading import read_bytes
from prrmse.errors import InputError
from prrmse.failures import one_line
from prrmse.files import is_file, package_file, sha256_of, write_text
from prrmse.settings import ForeignNetwork, Networks, Params, StartingNetwork

# How the settings that errors speak of are called in ``params.yaml``.
PARAMETERS = {
    "root": "datasets.{}.root",
    "case_pattern": "datasets.{}.case_pattern",
    "frames": "datasets.{}.frames",
    "split": "datasets.{}.split",
    "spacing_mm": "datasets.{}.spacing_mm",
    "pretrained": "nets.{}.pretrained",
    "trust": "nets.{}.trust: true",
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


def check_files(*paths: str | Path) -> None:
    """Refuse what Snakemake's own reader takes from a parameter file without a word.

    Args:
        paths: the files; one that is absent is left to Snakemake.

    Raises:
        InputError: a file is not YAML without tags, a key stands twice, or one at the top is none of the parameters.
    """
    for path in (os.path.relpath(path) for path in paths if Path(path).exists()):
        found = _read(path)
        for key in found if isinstance(found, dict) else ():
            if key not in Params.model_fields:
                raise InputError(f"{path}: {one_line(unknown_key(str(key)))}")


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
    try:
        document, above = (yaml_with_comments.load(Path(p).read_text(encoding="utf-8-sig")) for p in (path, overlay))
        changes = list(_write_into(document, above))
    except MemoryError:
        raise
    except Exception as e:
        said = " ".join(str(e).split())[:300]
        raise InputError(f"{overlay}: cannot be written into {path} ({said}); write it in plain YAML") from None
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


# Far more than parameters need; references to references can multiply a few bytes to gigabytes.
MOST_BYTES, MOST_VALUES = 2**18, 100_000


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last, and too many values."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for part, _ in node.value:
            key = self.construct_object(part, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(None, None, "a key that is no text", part.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(None, None, f"key {key!r} stands twice", part.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Values below a node, those that are referred to counted each time.

    Raises:
        yaml.YAMLError: too many, or a node that holds itself.
    """
    if id(node) not in known:
        known[id(node)] = MOST_VALUES  # until it is known: a node within itself has no end
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        total = 1 + sum(_count(part, known) for part in parts)
        if total > MOST_VALUES:
            raise yaml.MarkedYAMLError(None, None, f"more than {MOST_VALUES} values, or one in itself", node.start_mark)
        known[id(node)] = total
    return known[id(node)]


def _read(path: str | Path) -> Any:
    content = read_bytes(Path(path), "run from the folder that holds params.yaml", MOST_BYTES)
    try:
        return yaml.load(content.decode("utf-8-sig"), _Loader)
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({e}); save it as UTF-8") from None
    except MemoryError:
        raise
    except Exception as e:  # PyYAML's own errors, and what Python says to values that are none, e.g. !!timestamp x
        raise InputError(f"{path}: not valid YAML: {' '.join(str(e).split())[:300]}") from None


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

    Files of pretrained weights, and those that match their names, are named with their hashes, so that what starts from
    them runs again where they change.
    """
    found = {key: _value(params, key) for key in Params.model_fields if key != "nets"}
    # An overlay takes a network away by `NAME: null`.
    nets = {name: _with_hash(_value(params, f"nets.{name}")) for name, net in params["nets"].items() if net is not None}
    complete: dict[str, Any] = plain({**found, "nets": nets})
    return complete


# Ways to match tensors that need no file.
MATCHES = ("name", "order")


def _with_hash(network: StartingNetwork) -> StartingNetwork:
    weights = network.weights
    if weights is None:
        return network
    found = {}
    if weights.file != "imagenet":
        found["sha256"] = weights.sha256 or sha256_of(package_file(weights.file))
    if is_file(weights.match) and weights.match not in MATCHES:
        found["match_sha256"] = sha256_of(weights.match)
    return network.model_copy(update={"pretrained": weights.model_copy(update=found)}) if found else network


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
