"""Files: written whole or not at all, and hashed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest_of(root: Path, files: Iterable[Path]) -> str:
    """One SHA-256 over the names below ``root`` and the contents of several files."""
    lines = [f"{sha256_of(path)}  {path.relative_to(root).as_posix()}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_text(text: str, path: str | Path) -> None:
    """Write a file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
