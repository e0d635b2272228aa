"""Files: written whole or not at all, and hashed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from importlib.util import find_spec
from pathlib import Path

from prrmse.errors import InputError


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest_of(root: Path, files: Iterable[Path]) -> str:
    """One SHA-256 over the names below ``root`` and the contents of several files."""
    lines = [f"{sha256_of(path)}  {path.relative_to(root).as_posix()}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary neighbour to write to, which replaces ``path`` when the block ends without an error.

    Whatever happens to the process or the machine, ``path`` is then the old file or the whole new one: the content is
    on the disk before the name changes (fsync of the file, then of the folder). After an error nothing is left; after a
    kill a hidden file with ``.partial`` in its name may be. The neighbour keeps the ending, because many
    writers choose the format by it. Missing folders are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(_partial(path, os.getpid()))
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _flush(path.parent)


def package_file(name: str) -> Path:
    """The path that ``file`` or ``package:file`` means, the latter below an installed package, which is not imported.

    Raises:
        InputError: there is no such package.
    """
    package, colon, inner = name.partition(":")
    if not colon or not package.isidentifier() or Path(name).exists():
        return Path(name)
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"{name}: no package {package} is installed; install it, or correct the name")
    return Path(found.submodule_search_locations[0]) / inner


def partials(path: Path) -> list[Path]:
    """What killed writers of ``path`` left (and what living ones write)."""
    return [*path.parent.glob(_partial(Path(escape(str(path))), "*"))]


def _partial(path: Path, process: int | str) -> str:
    return f".{path.stem}.{process}.partial{path.suffix}"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(text: str, path: str | Path) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
