"""Which source files a script runs, so that a change of code re-runs just what it touches."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


def imported_files(script: str | Path, source: str | Path = "src") -> list[str]:
    """The modules of this package that a script imports, directly or through others, as file paths.

    Only imports at the top of a module count: one inside a function is taken to be a choice made
    elsewhere (an optional path), not a part of the step.

    Args:
        script: a Python file.
        source: the folder that holds the package.
    """
    found: set[Path] = set()
    queue = [Path(script)]
    while queue:
        for module in _imports(queue.pop()):
            for path in _files_of(module, Path(source)):
                if path not in found:
                    found.add(path)
                    queue.append(path)
    return sorted(str(path) for path in found)


@cache
def _imports(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] == "prrmse")


@cache
def _files_of(module: str, source: Path) -> tuple[Path, ...]:
    base = source.joinpath(*module.split("."))
    files = [base.with_suffix(".py"), base / "__init__.py"]
    files += [parent / "__init__.py" for parent in base.parents if parent.is_relative_to(source / "prrmse")]
    return tuple(path for path in files if path.is_file())
