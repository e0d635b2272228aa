"""The reference page of the parameters, printed from the classes of `prrmse.settings`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from prrmse.settings import Params


@cache
def schema() -> dict[str, Any]:
    """The JSON schema of ``params.yaml``."""
    return Params.model_json_schema()


def reference() -> str:
    """Every parameter as a Markdown table: key, what is allowed, default, meaning."""
    lines = ["| key | allowed | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{key}` | {_allowed(node)} | {_default(node)} | {meaning} |" for key, node, meaning in _rows(schema(), "")
    ]
    return "\n".join(lines)


def described(key: str) -> str:
    """The meaning of a parameter; names of networks and data sets are the user's. Empty if there is none."""
    parts = key.split(".")
    if len(parts) > 2 and parts[0] in ("datasets", "nets") and f"{parts[0]}.{parts[1]}" not in _meanings():
        parts[1] = "NAME"
    while parts and parts[-1].isdigit():
        del parts[-1]
    return _meanings().get(".".join(parts), "")


def keys() -> Iterable[str]:
    """Every parameter, dotted; ``NAME`` is a name of the user's."""
    return _meanings()


@cache
def _meanings() -> dict[str, str]:
    return {key: meaning for key, _, meaning in _rows(schema(), "")}


def _rows(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    children = dict(node.get("properties", {}))
    named = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
    children.update(("NAME", entry) for entry in named if isinstance(entry, dict))
    for name, child in children.items():
        key = f"{path}.{name}" if path else name
        meaning = child.get("description", "")
        target, *others = _targets(child)
        if meaning or not any(target.get(key) for key in ("properties", "additionalProperties", "patternProperties")):
            default = {k: v for k, v in child.items() if k == "default"}
            yield key, {**target, **default, "keys": any("properties" in other for other in others)}, meaning
        for option in (target, *others):
            yield from _rows(option, key)


def _targets(node: dict[str, Any]) -> list[dict[str, Any]]:
    """What may stand there, without ``null``, and with what a reference refers to."""
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"] or [node]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    found = [{**option, **rest} for option in options]
    return [schema()["$defs"][option["$ref"].rsplit("/", 1)[1]] if "$ref" in option else option for option in found]


def _default(node: dict[str, Any]) -> str:
    if "default" not in node or isinstance(node["default"], dict) or node["default"] is None:
        return ""
    return f"`{json.dumps(node['default'])}`"


def _allowed(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(map(str, node["enum"]))
    if "const" in node:
        return str(node["const"])
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    kind = str(node.get("type", ""))
    if kind == "array" and "enum" in node.get("items", {}):
        kind = f"array of {', '.join(node['items']['enum'])}"
    if node.get("keys"):
        kind = f"{kind} or keys"
    return ", ".join([kind, *(f"{sign} {node[key]}" for key, sign in limits.items() if key in node)])
