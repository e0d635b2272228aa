"""Where two runs first differ: their environment, parameters and files, in the order in which files were made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prrmse.data.slices import load_slices
from prrmse.files import sha256_of
from prrmse.nets.arrays import read_arrays
from prrmse.run.manifest import read_manifest
from prrmse.tables.store import read_texts


def compare_runs(a: str | Path, b: str | Path) -> list[str]:
    """What differs between two runs, a line each; empty if they made the same bytes.

    Commit, environment and parameters are named only if files differ or one run made other files: they are then
    what to look at first.

    Args:
        a, b: folders that hold ``results/manifest.json``, and the files themselves, which are read. Of a file that is
            not there the manifest's hash counts.

    Raises:
        InputError: a folder has no manifest, or one that names files outside it.
    """
    first, second = read_manifest(a), read_manifest(b)
    found = _hashes(Path(a), first["files"]), _hashes(Path(b), second["files"])
    files = list(dict.fromkeys([*found[0], *found[1]]))
    differ = [file for file in files if found[0].get(file) != found[1].get(file)]
    if not differ:
        return []
    changed = [
        f"{Path(folder) / file}: changed since its manifest was written"
        for folder, now, run in ((a, found[0], first), (b, found[1], second))
        for file in now
        if now[file] != run["files"][file]
    ]
    lines = [*changed, f"{len(differ)} of {len(files)} files differ; the first is {differ[0]}"]
    lines += [f"  {line}" for line in _inside(Path(a), Path(b), differ[0])]
    for key in ("commit", "changed"):
        if first[key] != second[key]:
            lines.append(f"{key}: {first[key]} | {second[key]}")
    for key in ("environment", "params"):
        lines += [f"{key}.{name}: {x} | {y}" for name, x, y in _changes(first[key], second[key])]
    return lines


def _hashes(folder: Path, recorded: dict[str, str]) -> dict[str, str]:
    """File -> hash of what is there now."""
    return {f: sha256_of(folder / f) if (folder / f).is_file() else digest for f, digest in recorded.items()}


def _changes(a: Any, b: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _changes(a.get(key), b.get(key), f"{name}.{key}" if name else str(key))
    elif a != b:
        yield name, a, b


def _inside(a: Path, b: Path, file: str) -> list[str]:
    for folder in (a, b):
        if not (folder / file).is_file():
            return [f"{folder} has no such file"]
    if file.endswith(".csv"):
        return _tables(a / file, b / file)
    if file.endswith(".npz"):
        return _slices(a / file, b / file)
    if file.endswith(".safetensors"):
        return _checkpoints(a / file, b / file)
    return []


def _tables(a: Path, b: Path) -> list[str]:
    x, y = (read_texts(path) for path in (a, b))
    columns = [str(name) for name in x]
    if not x.columns.equals(y.columns) or len(x) != len(y):
        return [f"{len(x)} rows, columns {columns} | {len(y)} rows, columns {[str(name) for name in y]}"]
    left, right = x.to_numpy(), y.to_numpy()
    cells = np.argwhere(left != right)
    if not len(cells):
        return ["same cells, other bytes"]
    row, column = cells[0]
    values = f"{left[row, column]} | {right[row, column]}"
    return [f"{len(cells)} of {x.size} cells; first: line {row + 2}, column {columns[column]}: {values}"]


def _slices(a: Path, b: Path) -> list[str]:
    x, y = load_slices(a), load_slices(b)
    lines = [f"meta.{name}: {p} | {q}" for name, p, q in _changes(x.meta, y.meta)]
    for name in ("image", "label"):
        lines += _arrays(name, getattr(x, name), getattr(y, name))
    return lines


def _checkpoints(a: Path, b: Path) -> list[str]:
    (x, head_x), (y, head_y) = read_arrays(a), read_arrays(b)
    lines = [f"header.{name}: {p} | {q}" for name, p, q in _changes(head_x, head_y)]
    for name in dict.fromkeys([*x, *y]):
        if found := _arrays(name, x.get(name), y.get(name)):
            return [*lines, *found]
    return lines


def _arrays(name: str, x: np.ndarray | None, y: np.ndarray | None) -> list[str]:
    if x is None or y is None or x.shape != y.shape:
        return [f"{name}: shape {getattr(x, 'shape', None)} | {getattr(y, 'shape', None)}"]
    if np.array_equal(x, y):
        return []
    gap = np.abs(x.astype(np.float64) - y.astype(np.float64))
    return [f"{name}: {np.count_nonzero(gap)} of {gap.size} values differ, by {gap.max():.3g} at most"]
