"""The hash of every file that a job of the workflow made, recorded when the job ends and checked when another reads it.

``results/hashes/FILE.sha256`` holds one line as ``sha256sum`` writes it, so that without this program
``find results/hashes -type f -exec cat {} + | sha256sum --check`` does what ``prrmse verify`` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from prrmse.errors import InputError
from prrmse.files import remove_partials, sha256_of, write_text
from prrmse.run.records import is_unfinished

FOLDER = Path("results/hashes")


def record_of(file: Path) -> Path | None:
    """Where the hash of a file is recorded; None of one that is not below the working folder."""
    if file.is_absolute() or ".." in file.parts or file.is_relative_to(FOLDER):
        return None
    return FOLDER / f"{file.as_posix()}.sha256"


def record(files: Iterable[Path]) -> None:
    """Record the hashes of files that were just written."""
    for file in files:
        if path := record_of(file):
            write_text(f"{sha256_of(file)}  {file.as_posix()}\n", path)
            remove_partials([path])


def check(files: Iterable[Path]) -> None:
    """Refuse to read what is not as it was written.

    Args:
        files: those without a record, and those that are not there, pass.

    Raises:
        InputError: names the first that differs, and what makes it anew.
    """
    for file in files:
        path = record_of(file)
        if path and path.is_file() and file.is_file() and _recorded(path) != sha256_of(file):
            raise InputError(f"{file}: not as it was written ({path}); to make it anew: {remedy(file.as_posix())}")


def remedy(file: str) -> str:
    """The command that makes a result anew; of a file of a phantom, the whole phantom."""
    if file.startswith("data/phantom/"):
        file = f"data/phantom/{Path(file).parts[2].removesuffix('.sha256')}.sha256"
    return f"rm {shlex.quote(file)} && snakemake --cores all {shlex.quote(file)}"


def recorded(folder: str | Path = ".") -> dict[str, str]:
    """File -> SHA-256, of every file that is there and finished."""
    folder = Path(folder)
    root = folder / FOLDER
    found = {}
    for path in sorted(root.rglob("*.sha256")):
        file = path.relative_to(root).as_posix().removesuffix(".sha256")
        if (folder / file).is_file() and not is_unfinished(folder, file):
            found[file] = _recorded(path)
    return found


def damaged(folder: str | Path = ".") -> list[str]:
    """Files of a run that are not as they were written, read from the disk whatever their times say.

    Files of phantoms among them: their hashes are in ``data/phantom/NAME.sha256``.

    Raises:
        InputError: no hash is recorded there.
    """
    folder = Path(folder)
    hashes = recorded(folder)
    if not hashes:
        raise InputError(f"{folder / FOLDER}: no recorded hashes; the jobs of the workflow write them")
    changed = [file for file, digest in hashes.items() if sha256_of(folder / file) != digest]
    for lines in sorted(folder.glob("data/phantom/*.sha256")):
        name = lines.relative_to(folder).as_posix()
        if name not in changed and not is_unfinished(folder, name):
            changed += [
                str(file.relative_to(folder))
                for digest, file in phantom_files(lines)
                if not file.is_file() or sha256_of(file) != digest
            ]
    return changed


def phantom_files(lines: Path) -> list[tuple[str, Path]]:
    """(SHA-256, path) of every file of a phantom, from the list that was written with it."""
    entries = [line.split("  ", 1) for line in lines.read_text(errors="replace").splitlines()]
    return [(entry[0], lines.with_suffix("") / entry[-1]) for entry in entries]


def _recorded(path: Path) -> str:
    return path.read_text(errors="replace").split(" ", 1)[0]
