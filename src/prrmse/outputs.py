"""Outputs that can be written and overwrite no input; checked before anything takes long."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from prrmse.errors import InputError

# What each output may end in, which decides its format.
ENDINGS = {
    "out": (".safetensors",),
    "nnunet": (".py",),
    "advice_out": (".json",),
    "table": (".csv",),
    "processed": (".npz",),
    "figure": (".png", ".svg", ".pdf"),
    "page": (".html",),
}
# What is written beside an output, under its name.
BESIDE = {"out": ".json", "nnunet": ".pth"}


def check_outputs(outputs: Mapping[str, str | Path | None], inputs: Iterable[object]) -> None:
    """Refuse outputs that are inputs, each other, folders, of another format, or where nothing can be written.

    Args:
        outputs: by their setting, a key of `ENDINGS`; None is no output.
        inputs: what the command reads; what is no path is left out.

    Raises:
        InputError: names the setting and the file.
    """
    paths = [Path(x) for x in inputs if isinstance(x, str | Path)]
    written: list[Path] = []
    for setting, name in outputs.items():
        if name is None:
            continue
        path = Path(name)
        if path.suffix not in ENDINGS[setting]:
            raise InputError(f"<{setting}>: {path}: must end in {' or '.join(ENDINGS[setting])}; choose another name")
        if setting == "nnunet" and not path.stem.isidentifier():
            raise InputError(f"<{setting}>: {path}: {path.stem} is no name for a class; choose another name")
        beside = [path.with_suffix(BESIDE[setting])] if setting in BESIDE else []
        for one in (path, *beside):
            _check_place(setting, one)
            if any(_same(one, other) for other in paths):
                raise InputError(f"<{setting}>: {one} would be overwritten, but is an input; choose another name")
            if any(_same(one, other) for other in written):
                raise InputError(f"<{setting}>: {one} would be written twice; choose another name")
        written += [path, *beside]


def _check_place(setting: str, path: Path) -> None:
    try:
        if path.is_dir():
            raise InputError(f"<{setting}>: {path} is a folder; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"<{setting}>: {path}: nothing can be written in {folder}; choose another folder")
    except (OSError, ValueError) as e:  # a name too long, or with a null byte
        if isinstance(e, InputError):
            raise
        raise InputError(f"<{setting}>: {path}: no name for a file ({e}); choose another") from None


def _same(a: Path, b: Path) -> bool:
    try:
        return os.path.realpath(a) == os.path.realpath(b) or (a.exists() and b.exists() and a.samefile(b))
    except (OSError, ValueError):
        return False
