"""What trainings and sweeps have made, kept apart from the folders that other programs may empty.

`dvc exp run`, `dvc checkout` and a change of branch replace or delete `results/`, and with it hours of work that nobody
has recorded yet; a kill may come between the last line of a job and Snakemake's note that it is done. So a job keeps
its files, as hard links that take no space, under a name which stands for its code, its arguments (parameters among
them), the content of the files it reads, the kind of device, precision and threads, and the versions of Python and of
`PACKAGES`. A job that is asked for again finds them there. Not in the name: the model of the processor or GPU, the
driver, and other packages. Of a network of another package the code is told by that package's version, so the jobs of
those that no version tells (`is_told_by_version`) keep nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prrmse.errors import InputError
from prrmse.files import sha256_of, write_text
from prrmse.settings import Network
from prrmse.versions import installed_versions

FOLDER = Path(".snakemake/kept")
# Set while Snakemake is asked to run jobs whatever is there (--forceall, --forcerun, --force).
FORCED = "PRRMSE_FORCED"
DAYS = 30
# What has no record, because its job was killed while it kept it, or is just keeping it.
UNFINISHED_DAYS = 1
# What a training or sweep computes with, and whose networks it may train.
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "scikit-image",
    "nibabel",
    "pillow",
    "safetensors",
    "monai",
    "segmentation-models-pytorch",
    "timm",
    "dynamic-network-architectures",
)


def versions() -> dict[str, str | None]:
    """Of Python and of `PACKAGES`; None for what is not installed."""
    installed = installed_versions(PACKAGES)
    return {"python": platform.python_version(), **{name: installed.get(name) for name in PACKAGES}}


def is_told_by_version(network: Network | None) -> bool:
    """Whether `versions`, and the digest of our own code, tell a network's code from any other.

    They do not for a network of the user's, nor for a known package's that is used from a folder of its sources, nor
    where an argument names a file that the network opens.
    """
    if network is None or network.factory is None:
        return True
    from prrmse.nets.build import needs_trust  # imports torch

    if needs_trust(network.factory, network.keywords):
        return False
    package = network.factory.split(".")[0].split(":")[0]
    found = find_spec(package)
    places = {"site-packages", "dist-packages"}
    return package == "prrmse" or bool(found and found.origin and places & set(Path(found.origin).parts))


def key_of(what: Mapping[str, Any], read: Mapping[Path, str]) -> str:
    """The name under which a job's files are kept.

    Args:
        what: JSON-able; everything that decides the result but the content of files and the `versions`.
        read: the files and their SHA-256.
    """
    hashes = {str(path): digest for path, digest in read.items()}
    return hashlib.sha256(json.dumps([dict(what), hashes, versions()], sort_keys=True).encode()).hexdigest()


def keep(key: str, files: Mapping[Path, str]) -> None:
    """Keep these files. Where they cannot be linked they are copied; where the disk is full they are not kept.

    Args:
        key: of `key_of`.
        files: the files and their SHA-256.
    """
    folder, made = FOLDER / key, sorted(files)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        for i, path in enumerate(made):
            _link(path, folder / str(i))
        hashes = {path.as_posix(): files[path] for path in made}
        write_text(json.dumps(hashes), folder / "files.json")  # last: what has none is not whole
    except (OSError, InputError):
        shutil.rmtree(folder, ignore_errors=True)


def restore(key: str) -> dict[Path, str] | None:
    """Put the kept files in place; None if there are none, they are damaged, or jobs are to run whatever is there.

    Returns:
        The files and their SHA-256.
    """
    folder = FOLDER / key
    if os.environ.get(FORCED):
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
    return {Path(name): digest for name, digest in hashes.items()}


def forget_old() -> None:
    """Delete what left the results `DAYS` days ago, and what is not whole.

    When it left them is told by the time at which the last of its files lost a name: not when it was kept, since
    `dvc exp run` may empty the results just before they are asked for again.
    """
    with contextlib.suppress(OSError):
        for folder in FOLDER.iterdir():
            if not (folder / "files.json").is_file():
                if _days_since(folder.stat().st_mtime) > UNFINISHED_DAYS:
                    shutil.rmtree(folder)
                continue
            found = [path.stat() for path in folder.iterdir()]
            left = max(part.st_ctime for part in found)
            if _days_since(left) > DAYS and all(part.st_nlink == 1 for part in found):
                shutil.rmtree(folder)


def _days_since(moment: float) -> float:
    return (time.time() - moment) / 86400


def _link(path: Path, name: Path) -> None:
    try:
        name.hardlink_to(path)
    except OSError:
        shutil.copy2(path, name)
