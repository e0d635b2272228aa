"""What trainings and sweeps have made, kept apart from the folders that other programs may empty.

`dvc exp run`, `dvc checkout` and a change of branch replace or delete `results/`, and with it hours of work that nobody
has recorded yet; a kill may come between the last line of a job and Snakemake's note that it is done. So a job keeps
its files, as hard links that take no space, under a name which stands for all that decides its result: its code, its
arguments, and the content of the files it reads. A job that is asked for again finds them there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from prrmse.errors import InputError
from prrmse.files import sha256_of, write_text

FOLDER = Path(".snakemake/kept")
# Set while Snakemake is asked to run jobs whatever is there (--forceall, --forcerun, --force).
ANEW = "PRRMSE_ANEW"
DAYS = 30


def key_of(what: Mapping[str, Any], read: Iterable[Path]) -> str:
    """The name under which a job's files are kept.

    Args:
        what: JSON-able; everything that decides the result but the content of files.
        read: the files.
    """
    hashes = {str(path): sha256_of(path) for path in read}
    return hashlib.sha256(json.dumps([dict(what), hashes], sort_keys=True).encode()).hexdigest()


def keep(key: str, files: Iterable[Path]) -> None:
    """Keep these files. Where they cannot be linked they are copied; where the disk is full they are not kept."""
    folder, made = FOLDER / key, sorted(files)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        for i, path in enumerate(made):
            _link(path, folder / str(i))
        hashes = {path.as_posix(): sha256_of(path) for path in made}
        write_text(json.dumps(hashes), folder / "files.json")  # last: what has none is not whole
    except (OSError, InputError):
        shutil.rmtree(folder, ignore_errors=True)


def restore(key: str) -> list[Path] | None:
    """Put the kept files in place; None if there are none, they are damaged, or jobs are to run whatever is there."""
    folder = FOLDER / key
    if os.environ.get(ANEW):
        return None
    try:
        hashes: dict[str, str] = json.loads((folder / "files.json").read_text())
        if any(sha256_of(folder / str(i)) != digest for i, digest in enumerate(hashes.values())):
            return None
        for i, name in enumerate(hashes):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).unlink(missing_ok=True)
            _link(folder / str(i), Path(name))
    except (OSError, ValueError):
        return None
    return [Path(name) for name in hashes]


def forget_old() -> None:
    """Delete what has been kept for `DAYS` days and is no longer among the results."""
    with contextlib.suppress(OSError):
        for folder in FOLDER.iterdir():
            record = folder / "files.json"
            if not record.is_file() or time.time() - record.stat().st_mtime < DAYS * 86400:
                continue
            if all(path.stat().st_nlink == 1 for path in folder.iterdir()):
                shutil.rmtree(folder)


def _link(path: Path, name: Path) -> None:
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copy2(path, name)
