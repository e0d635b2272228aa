"""Files: written whole or not at all, and hashed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from glob import escape
from importlib.util import find_spec
from pathlib import Path

from prrmse.errors import InputError

# What the user, not the program, has to put right.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_watching: list[set[Path]] = []


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
    writers choose the format by it. Missing folders are made. The file's mode is that of any new file here, whatever
    mode the writer chose.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    partial = path.with_name(_partial(path, os.getpid()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
        yield partial
        partial.chmod(mode)
        _flush(partial)
        os.replace(partial, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _flush(path.parent)
    except OSError as e:
        if e.errno not in _DISK:
            raise
        raise InputError(f"{path}: cannot be written ({e.strerror}){_remedy(e.errno, path)}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    report_written([path])


def report_written(paths: Iterable[Path]) -> None:
    """Let `written` gather files that were put in place, as those that another process wrote for this one."""
    for files in _watching:
        files.update(paths)


@contextmanager
def written() -> Iterator[set[Path]]:
    """Context that gathers every file which `atomic` puts in place in this process, and those reported to it."""
    files: set[Path] = set()
    _watching.append(files)
    try:
        yield files
    finally:
        _watching.remove(files)


def _remedy(number: int | None, path: Path) -> str:
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    folder = path.parent.absolute()
    while not os.path.ismount(folder) and folder != folder.parent:
        folder = folder.parent
    return f"; make room on {folder} and run again: nothing that was finished is lost"


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; there is none of a name that no file can have."""
    return os.path.isfile(path)  # noqa: PTH113 - Path.is_file raises for such a name


def package_file(name: str) -> Path:
    """The path that ``file`` or ``package:file`` means, the latter below an installed package, which is not imported.

    Raises:
        InputError: there is no such package.
    """
    package, colon, inner = name.partition(":")
    if not colon or not package.isidentifier() or is_file(name):
        return Path(name)
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise InputError(f"{name}: no package {package} is installed; install it, or correct the name")
    return Path(found.submodule_search_locations[0]) / inner


def remove_partials(paths: Iterable[Path]) -> None:
    """Delete what killed writers of these files left; no living one may be at work."""
    for path in paths:
        for partial in path.parent.glob(_partial(Path(escape(str(path))), "*")):
            partial.unlink(missing_ok=True)


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


def own_folder() -> Path | None:
    """A folder for locks and sockets that this user alone can reach, the same for all processes; None if there is none.

    In the folder for temporary files, where others may have put something in its place; then in the user's cache.
    """
    for place in (Path(tempfile.gettempdir()) / f"prrmse-{os.getuid()}", Path("~/.cache/prrmse")):
        with contextlib.suppress(OSError, RuntimeError):  # the latter of a user without a home, as in some containers
            folder = place.expanduser()
            folder.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            found = folder.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
                return folder
    return None
