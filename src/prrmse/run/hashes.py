"""The hash of every file that a job of the workflow made, recorded when the job ends and checked when another reads it.

``results/hashes/FILE.sha256`` holds one line as ``sha256sum`` writes it, so that without this program
``find results/hashes -type f -exec cat {} + | sha256sum --check`` does what ``prrmse verify`` does.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
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


def record(hashes: Mapping[Path, str]) -> None:
    """Record the SHA-256 of files that were just written."""
    for file, digest in hashes.items():
        if path := record_of(file):
            write_text(f"{digest}  {file.as_posix()}\n", path)
            remove_partials([path])


def check(files: Iterable[Path]) -> dict[Path, str]:
    """Refuse to read what is not as it was written.

    Args:
        files: those without a record, and those that are not there, pass.

    Returns:
        The SHA-256 of those that have a record.

    Raises:
        InputError: names the first that differs, and what makes it anew.
    """
    found = {}
    for file in files:
        path = record_of(file)
        if path and path.is_file() and file.is_file():
            found[file] = sha256_of(file)
            if found[file] != _recorded(path):
                raise _not_as_written(file, path)
    return found


def check_phantom(lines: Path) -> None:
    """Refuse to read a phantom that is not as it was written.

    Args:
        lines: its list of hashes; one that is not there passes.

    Raises:
        InputError: names the first file that differs, and what makes the phantom anew.
    """
    for file in _changed_phantom_files(lines) if lines.is_file() else ():
        raise _not_as_written(file, lines)


def _not_as_written(file: Path, record: Path) -> InputError:
    return InputError(f"{file}: not as it was written ({record}); to make it anew: {remedy(file.as_posix())}")


def remedy(file: str) -> str:
    """The command that makes a result anew; of a file of a phantom, the whole phantom."""
    if file.startswith("data/phantom/"):
        file = f"data/phantom/{Path(file).parts[2].removesuffix('.sha256')}.sha256"
    return f"rm {shlex.quote(file)} && {_command(file)}"


def remedy_of_missing(file: str) -> str:
    """The command that makes a result that is gone; its record may also be all that is left of another grid."""
    return f"{_command(file)} (if no rule makes it any more: rm {shlex.quote(f'{FOLDER}/{file}.sha256')})"


def _command(file: str) -> str:
    return f"snakemake --cores all {shlex.quote(file)}"


def recorded(folder: str | Path = ".") -> dict[str, str]:
    """File -> SHA-256, of every file that is there and finished."""
    folder = Path(folder)
    files = {file: path for file, path in _records(folder).items() if (folder / file).is_file()}
    return {file: _recorded(path) for file, path in files.items()}


def missing(folder: str | Path = ".") -> list[str]:
    """Files whose hash is recorded and which are not there, but for those that Snakemake makes anew by itself."""
    folder = Path(folder)
    return [file for file in _records(folder) if not (folder / file).is_file()]


def _records(folder: Path) -> dict[str, Path]:
    """File -> where its hash is recorded, of every file that is finished."""
    root = folder / FOLDER
    found = {path.relative_to(root).as_posix().removesuffix(".sha256"): path for path in sorted(root.rglob("*.sha256"))}
    return {file: path for file, path in found.items() if not is_unfinished(folder, file)}


def damaged(folder: str | Path = ".") -> list[str]:
    """Files of a run that are not as they were written, read from the disk whatever their times say.

    Files of phantoms among them: their hashes are in ``data/phantom/NAME.sha256``.

    Raises:
        InputError: no hash is recorded there, or of nothing that is there.
    """
    folder = Path(folder)
    hashes = recorded(folder)
    if not hashes:
        none = "none of the files is there whose hashes are recorded" if _records(folder) else "no recorded hashes"
        raise InputError(f"{folder / FOLDER}: {none}; the jobs of the workflow write both, dvc pull brings them")
    changed = [file for file, digest in hashes.items() if sha256_of(folder / file) != digest]
    for lines in sorted(folder.glob("data/phantom/*.sha256")):
        name = lines.relative_to(folder).as_posix()
        if name not in changed and not is_unfinished(folder, name):
            changed += [str(file.relative_to(folder)) for file in _changed_phantom_files(lines)]
    return changed


def _changed_phantom_files(lines: Path) -> Iterator[Path]:
    """Files of a phantom that are gone or not as they were written."""
    return (file for digest, file in phantom_files(lines) if not file.is_file() or sha256_of(file) != digest)


def phantom_files(lines: Path) -> list[tuple[str, Path]]:
    """(SHA-256, path) of every file of a phantom, from the list that was written with it."""
    entries = [line.split("  ", 1) for line in lines.read_text(errors="replace").splitlines()]
    return [(entry[0], lines.with_suffix("") / entry[-1]) for entry in entries]


def _recorded(path: Path) -> str:
    return path.read_text(errors="replace").split(" ", 1)[0]
