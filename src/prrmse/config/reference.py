"""The reference page of the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prrmse.config.checks import schema


def reference() -> str:
    """Every parameter of the schema as a Markdown table."""
    lines = ["| key | allowed | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {allowed} | {meaning} |" for key, allowed, meaning in _rows(schema(), "")]
    return "\n".join(lines)


def _rows(node: dict[str, Any], path: str) -> Iterator[tuple[str, str, str]]:
    children = dict(node.get("properties", {}))
    if isinstance(node.get("additionalProperties"), dict):
        children["NAME"] = node["additionalProperties"]
    for name, child in children.items():
        key = f"{path}.{name}" if path else name
        meaning = child.get("description", "")
        if "$ref" in child:
            child = schema()["$defs"][child["$ref"].rsplit("/", 1)[1]]
        if meaning or not (child.get("properties") or child.get("additionalProperties")):
            yield key, _allowed(child), meaning
        yield from _rows(child, key)


def _allowed(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in node["enum"])
    if "const" in node:
        return str(node["const"])
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {node[key]}" for key, sign in limits.items() if key in node]
    kinds = node.get("type", "")
    return ", ".join([kinds if isinstance(kinds, str) else " or ".join(kinds), *bounds])
