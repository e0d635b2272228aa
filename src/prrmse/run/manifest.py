"""What a run was made with and what it made: versions, device, commit, parameters, and a hash of every file."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prrmse.data.reading import MAX_TEXT_BYTES, read_bytes
from prrmse.errors import InputError
from prrmse.files import sha256_of
from prrmse.run.hashes import phantom_files, recorded
from prrmse.run.records import end_time
from prrmse.versions import installed_versions

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "nibabel", "seaborn", "snakemake", "dvc")
MANIFEST = Path("results/manifest.json")
CHECKOUT = Path(__file__).parents[3]
# What decides the results; dvc.lock and documents do not.
SOURCES = ("Snakefile", "workflow", "src", "params.yaml", "environment.yml", "requirements.txt")


def environment() -> dict[str, str]:
    """Versions and machine, in a fixed order."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found |= {"cpu": _cpu(), "gpu": _gpu()}
    installed = installed_versions(PACKAGES)
    return found | {name: installed.get(name, "not installed") for name in PACKAGES}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="ignore").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _gpu() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return ", ".join(subprocess.run(command, text=True, capture_output=True, check=False).stdout.split("\n")).strip(
        ", "
    )


def commit(folder: str | Path = CHECKOUT) -> dict[str, Any]:
    """``commit`` of the workflow's checkout and which sources are ``changed`` since; None where there is no git."""
    head = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--", *SOURCES)
    return {"commit": head, "changed": None if status is None else sorted(line[3:] for line in status.splitlines())}


def _git(folder: str | Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


def manifest(params: dict[str, Any], files: Iterable[str]) -> dict[str, Any]:
    """The record of a run.

    Args:
        params: all of them; ``seeds`` are among them, every other seed derives from these (`prrmse.seeding`).
        files: what it made, in the order in which it was made. Raw data are hashed when they are read: the
            digest is in the header of the processed data and of every checkpoint.
    """
    hashes = {file: sha256_of(file) for file in files}
    return {**commit(), "environment": environment(), "params": params, "files": hashes}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of the run in a folder.

    Raises:
        InputError: there is none, it is no manifest, or it names files outside that folder.
    """
    path = Path(folder) / MANIFEST
    content = read_bytes(path, "a complete run of the workflow writes it", MAX_TEXT_BYTES)
    try:
        found = json.loads(content)
        if not all(isinstance(x, str) for pair in found["files"].items() for x in pair):
            raise TypeError
        run = {key: found[key] for key in ("commit", "changed", "environment", "params", "files")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: not a manifest; delete it and run the workflow again") from None
    for file in run["files"]:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise InputError(f"{path}: names a file outside this folder: {file}")
    return run


def touched(folder: str | Path = ".") -> list[str]:
    """Results whose content was changed by something other than the workflow.

    A file that Snakemake made has the time that it noted for it, or is still marked as being made, if the run was
    killed before it could note that; one that was only copied (``dvc pull``) has another time but the recorded content.
    So a file was touched if none of these fits. What was changed and has its old time is found by `damaged`.
    """
    folder = Path(folder)
    hashes = recorded(folder)
    changed = [f for f in hashes if not _made_by_snakemake(folder, f) and sha256_of(folder / f) != hashes[f]]
    for lines in sorted(folder.glob("data/phantom/*.sha256")):
        written = lines.stat().st_mtime
        files = [(digest, path) for digest, path in phantom_files(lines) if path.is_file()]
        changed += [str(path) for digest, path in files if path.stat().st_mtime > written and sha256_of(path) != digest]
    return changed


def _made_by_snakemake(folder: Path, file: str) -> bool:
    return end_time(folder, file) == (folder / file).stat().st_mtime


def check_untouched() -> None:
    """Refuse to go on from results that are not as recorded: what follows from those edited by hand would be wrong.

    DVC brings back checkpoints and their hashes (``results/hashes``) as of different runs where only some of its stages
    were run before a commit: the hashes belong to the last stage. The two cases cannot be told apart here.

    Raises:
        InputError: names the files and says what to do.
    """
    if changed := touched():
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"{', '.join(changed[:3])}{more}: changed by hand since the workflow made it, or from another commit than "
            "its record in results/hashes; delete it to have it made anew (or taken from .snakemake/kept), or, if it "
            "was changed by hand, restore it (dvc checkout --force)"
        )
