"""Snakemake's own notes of what each file was made with: which of them can be believed.

Snakemake passes over a note that it cannot read, or from which a field is missing, and then takes the file for up to
date, whatever its parameters are by now. Nor does it look at an input whose time is older than the result, although the
input may have been replaced since. Here such a file is marked as unfinished, so that it is made anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from prrmse.files import sha256_of

# What Snakemake compares when it decides whether a job has to run.
COMPARED = {"rule", "input", "params", "code", "endtime", "input_checksums", "record_format_version"}
METADATA, INCOMPLETE = Path(".snakemake/metadata"), Path(".snakemake/incomplete")
LONGEST_NAME = 254
# What the workflow makes; the jobs that read it check its recorded hash (`prrmse.run.hashes`).
MADE = (Path("results"), Path("data/processed"), Path("data/phantom"))
# Arguments of snakemake with which it makes nothing.
NO_JOBS = (
    "dryrun",
    "lint",
    "list_rules",
    "list_target_rules",
    "print_compilation",
    "containerize",
    "report",
    "reporter",
    "generate_unit_tests",
    "dag",
    "rulegraph",
    "filegraph",
    "d3dag",
    "unlock",
    "cleanup_metadata",
    "conda_cleanup_envs",
    "conda_create_envs_only",
    "list_conda_envs",
    "cleanup_shadow",
    "container_cleanup_images",
    "list_changes",
    "list_input_changes",
    "list_params_changes",
    "list_untracked",
    "summary",
    "detailed_summary",
    "archive",
    "delete_all_output",
    "delete_temp_output",
)


def note_of(kind: Path, file: str) -> Path:
    """Where Snakemake notes something of a file: its name in base64, in folders where that is too long for one name."""
    key = urlsafe_b64encode(file.encode()).decode()
    parts = [key[i : i + LONGEST_NAME] for i in range(0, len(key), LONGEST_NAME)]
    return kind.joinpath(*(f"@{part}" for part in parts[:-1]), parts[-1])


def is_unfinished(folder: Path, file: str) -> bool:
    """Whether Snakemake will make the file anew, because the job that made it was killed."""
    return (folder / note_of(INCOMPLETE, file)).is_file()


def end_time(folder: Path, file: str) -> float | None:
    """The time of the file's last change by Snakemake; None if it has no note of it."""
    return _noted(folder, file, "endtime")


def start_time(folder: Path, file: str) -> float | None:
    """When Snakemake started the job that made the file; None if it has no note of it."""
    return _noted(folder, file, "starttime")


def _noted(folder: Path, file: str, field: str) -> float | None:
    try:
        found = json.loads((folder / note_of(METADATA, file)).read_bytes())[field]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, float) else None


def runs_jobs(command: Sequence[str]) -> bool:
    """Whether Snakemake makes anything with these arguments; otherwise it only answers, or tidies up.

    Said while Snakemake reads the Snakefile, when the workflow does not know it yet. Of a dry run that a profile asks
    for see ``workflow.output_settings``.
    """
    from snakemake.cli import get_argument_parser

    asked = vars(get_argument_parser().parse_known_args(list(command))[0])
    # Some are False, others None, where they are left out; `--cleanup-metadata` and its like are lists.
    answers = set(NO_JOBS) - ({"report", "reporter"} if asked.get("report_after_run") else set())
    return all(asked.get(name) in (None, False) for name in answers)


def bring_to_present(templates: Iterable[Path]) -> None:
    """Give results and templates from the future, made while the clock was ahead, the time of now.

    Snakemake fails a job whose output is older than its input, and deletes the output.
    """
    now = time.time()
    for path in [*_made(), *templates]:
        with contextlib.suppress(OSError):  # it is gone, or another user's
            if path.is_file() and path.stat().st_mtime > now:
                os.utime(path)


def _made() -> list[Path]:
    results, processed, phantoms = MADE
    return [*results.rglob("*"), *processed.glob("*"), *phantoms.glob("*.sha256")]


def unverified_results(rules: Iterable[Any], *, mark: bool) -> list[str]:
    """`mark_unverified` for all that these rules of Snakemake have made so far."""
    from snakemake.persistence import RECORD_FORMAT_VERSION, MetadataRecord

    outputs = [output for rule in rules for output in rule.output]
    names = sorted(path.as_posix() for path in _made() if not path.name.startswith("."))
    made = [name for name in names if any(output.match(name) for output in outputs)]
    return mark_unverified(made, MetadataRecord.model_validate, RECORD_FORMAT_VERSION, mark=mark)


def mark_unverified(
    outputs: Iterable[str], validate: Callable[[dict[str, Any]], object], version: int, *, mark: bool = True
) -> list[str]:
    """Mark as unfinished what has no note, a damaged one, or one of an input that was replaced by an older file.

    Args:
        outputs: files of the workflow.
        validate: raises ValueError for a note whose values Snakemake cannot take.
        version: of the form of notes that this Snakemake writes. Of a note of another form it compares what it can,
            so that one needs only to be readable.
        mark: False to change nothing and only say what would be marked.

    Returns:
        Those that are there and were not marked before.
    """
    found = [file for file in outputs if Path(file).is_file() and not is_unfinished(Path(), file)]
    unverified = [file for file in found if not _holds(note_of(METADATA, file), validate, version)]
    for file in unverified if mark else []:
        unfinished = note_of(INCOMPLETE, file)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({"external_jobid": None}))
        note_of(METADATA, file).unlink(missing_ok=True)
    return unverified


def _holds(path: Path, validate: Callable[[dict[str, Any]], object], version: int) -> bool:
    try:
        note = json.loads(path.read_bytes())
        validate(note)
        if note["record_format_version"] == version and any(note[key] is None for key in COMPARED):
            return False
        inputs: dict[str, str] = note.get("input_checksums") or {}
        return not any(_was_replaced(Path(file), digest, note["endtime"]) for file, digest in inputs.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _was_replaced(file: Path, digest: str, end: float) -> bool:
    """Whether an input of the user's is another than it was, although its time, as of a copy (``cp -p``), is older.

    The time of its last change of any kind, which no program can set, says whether it has to be read.
    """
    if any(file.is_relative_to(folder) for folder in MADE) or not file.is_file():
        return False
    times = file.stat()
    return times.st_mtime <= end < times.st_ctime and digest != f"sha256:{sha256_of(file)}"
