"""Files that may be absent, damaged or made to do harm: every failure is one line that names the file."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from prrmse.errors import InputError

# What one file may hold, checked before anything is unpacked: a few megabytes of gzip can ask for gigabytes.
MAX_BYTES = 2**30
MAX_PIXELS = 2**27  # 512 x 512 x 512
MAX_TEXT_BYTES = 2**24


@contextmanager
def naming(path: Path | str, expected: str, advice: str) -> Iterator[None]:
    """Whatever goes wrong inside is an `InputError` that names the file: a damaged file can raise anything.

    Args:
        path: the file, or a place in it.
        expected: what it should be.
        advice: what to do.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"{path}: truncated or not {expected} ({one_line(e)}); {advice}") from None


def one_line(error: Exception | str) -> str:
    """What an exception (or text) says, short and without line breaks; its type if it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def check_readable(path: Path, advice: str, at_most: int | None = None) -> None:
    """Refuse what is no regular file (a pipe would block for ever) or too large.

    Args:
        path: the file.
        advice: what to do if it is absent.
        at_most: bytes.

    Raises:
        InputError: absent, a folder, a pipe, a link to itself, not permitted, or too large.
    """
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; {advice}") from None
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: cannot be read ({one_line(e)}); check its links and permissions") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or device"
        raise InputError(f"{path}: is {kind}, expected a file; {advice}")
    if at_most is not None and found.st_size > at_most:
        raise InputError(f"{path}: has {found.st_size} bytes, more than the {at_most} that are read; is it this file?")


def read_bytes(path: Path, advice: str, at_most: int = MAX_BYTES) -> bytes:
    """The content of a file that `check_readable` passes."""
    check_readable(path, advice, at_most)
    return path.read_bytes()


def read_text(path: Path, advice: str) -> str:
    """The same as text; what is not UTF-8, as the path of a Windows user may be, is replaced."""
    return read_bytes(path, advice, MAX_TEXT_BYTES).decode("utf-8-sig", errors="replace")


def read_json(path: Path, advice: str) -> Any:
    """A JSON file.

    Raises:
        InputError: as `check_readable`, or not JSON, or a key is there twice (Python would take the last one).
    """
    content = read_bytes(path, advice, MAX_TEXT_BYTES)
    with naming(path, "valid JSON", "fix the file"):
        return json.loads(content, object_pairs_hook=unique_keys)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: a dict.

    Raises:
        ValueError: a key is there twice.
    """
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def check_size(path: Path | str, shape: tuple[int, ...]) -> None:
    """Refuse an image before it is unpacked.

    Raises:
        InputError: no pixel, or more than `MAX_PIXELS`.
    """
    if not shape or min(shape) < 1 or prod(map(int, shape)) > MAX_PIXELS:
        raise InputError(
            f"{path}: its header says {' x '.join(map(str, shape)) or 'no'} pixels, expected 1 to {MAX_PIXELS} in all; "
            "fix the header or crop the image"
        )
