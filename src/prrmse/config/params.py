"""Parameters: read, checked, and cut into the sections that each step depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from prrmse.config.checks import check_params
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
