"""Command line: check parameters and data before anything long runs, and explain the parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from prrmse.errors import InputError
from prrmse.params import check_data, read_params, schema, use_params


def main(arguments: list[str] | None = None) -> int:
    """Entry point of ``prrmse``; exit status 0, 1 if ``diff`` finds a difference, 2 if the user must mend something."""
    parser = argparse.ArgumentParser(prog="prrmse", description="Reusable parameters of CNNs, layer by layer.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check a parameter file and that its data sets are there")
    check.add_argument("files", nargs="*", default=["params.yaml"], help="later files replace keys of earlier ones")
    check.set_defaults(act=_check)
    params = commands.add_parser("params", help="print every parameter and what it means, as a Markdown table")
    params.set_defaults(act=lambda _: print(reference()))
    use = commands.add_parser("use", help="write the keys of another file, e.g. configs/paper.yaml, into params.yaml")
    use.add_argument("file")
    use.set_defaults(act=_use)
    diff = commands.add_parser("diff", help="say where two runs first differ (exit status 1 if they do)")
    diff.add_argument("runs", nargs=2, metavar="RUN", help="a folder that holds results/manifest.json")
    diff.set_defaults(act=_diff)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.act(parsed) or 0
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _check(a: argparse.Namespace) -> None:
    check_data(read_params(*a.files))
    print(f"{' + '.join(a.files)}: fine")


def _use(a: argparse.Namespace) -> None:
    for key, old, new in use_params(a.file):
        print(f"{key}: {old} -> {new}")


def _diff(a: argparse.Namespace) -> int:
    from prrmse.difference import compare_runs

    lines = compare_runs(*a.runs)
    print("\n".join(lines) if lines else "the same bytes in every file")
    return int(bool(lines))


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
