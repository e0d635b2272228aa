"""Procedural cardiac short-axis cohorts, written in the formats of the real data sets.

They are the embedded default, so that the whole workflow runs without a download. Everything computed
from them says "phantom". Nothing in them is copied from a patient.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from prrmse.errors import InputError
from prrmse.phantom.acdc import write_acdc
from prrmse.phantom.options import OPTIONS, AcdcOptions, RvscOptions, T1Options, checked_options
from prrmse.phantom.rvsc import write_rvsc
from prrmse.phantom.t1 import write_t1

__all__ = ["FORMATS", "generate", "write_acdc", "write_rvsc", "write_t1"]

FORMATS = tuple(OPTIONS)
# The names of RVSC have two digits for the patient.
_MOST_PATIENTS = {"acdc": 999, "rvsc": 99, "t1": 9999}


def generate(dataset: str, root: Path, *, patients: int, seed: int, **options: Any) -> None:
    """Write a cohort, complete or not at all; equal arguments give equal bytes.

    Args:
        dataset: ``acdc``, ``rvsc`` or ``t1``: which distributed format.
        root: a folder that does not exist yet.
        patients: size of the cohort; patient k is the same whatever it is. In ``rvsc`` half of them train
            (``TrainingSet``) and half test (``Test1Set``).
        seed: of the cohort, 0 or more.
        options: fields of `AcdcOptions`, `RvscOptions` or `T1Options`: matrix, slices, contrast, noise.

    Raises:
        InputError: unknown format or option, a value out of range, or an existing root.
    """
    if dataset not in FORMATS:
        raise InputError(f"no phantom in the format {dataset!r}; known are {', '.join(FORMATS)}")
    most = _MOST_PATIENTS[dataset]
    if type(patients) is not int or not 2 <= patients <= most:
        raise InputError(
            f"a phantom cohort in the format {dataset} needs 2 or more patients, up to {most}; not {patients!r}"
        )
    if type(seed) is not int or seed < 0:
        raise InputError(f"the seed of a phantom cohort is a whole number from 0; not {seed!r}")
    root = Path(root)
    chosen: AcdcOptions | RvscOptions | T1Options
    partial = _partial(root)
    if dataset == "acdc":
        chosen = checked_options(AcdcOptions, options)
        write_acdc(_fresh(root, partial), patients, seed, chosen)
    elif dataset == "rvsc":
        chosen = checked_options(RvscOptions, options)
        write_rvsc(_fresh(root, partial), patients, seed, chosen)
    else:
        chosen = checked_options(T1Options, options)
        write_t1(_fresh(root, partial), patients, seed, chosen)
    (partial / "PHANTOM.md").write_text(_note(dataset, patients, seed, dataclasses.asdict(chosen)), newline="\n")
    partial.rename(root)


def remove(root: str | Path) -> None:
    """Delete a cohort that `generate` wrote; a kill in the middle leaves nothing that is in the way of the next.

    Raises:
        InputError: the folder is no phantom.
    """
    root = Path(root)
    if not (root / "PHANTOM.md").is_file():
        raise InputError(f"{root} exists and is no phantom; name another folder")
    shutil.rmtree(_partial(root), ignore_errors=True)
    root.rename(_partial(root))
    shutil.rmtree(_partial(root))


def _partial(root: Path) -> Path:
    """Where a cohort is while it is not whole: it must never pass for a whole one."""
    return root.with_name(root.name + ".partial")


def _fresh(root: Path, partial: Path) -> Path:
    if root.exists():
        raise InputError(f"{root}: already exists; remove it first")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _note(dataset: str, patients: int, seed: int, options: dict[str, Any]) -> str:
    lines = [f"- {name}: {json.dumps(value)}\n" for name, value in options.items()]
    return (
        f"Phantom, not patient data: {dataset} format, {patients} patients, seed {seed}, written by prrmse.\n\n"
        f"Drawn by a program; no pixel comes from a patient. Options:\n\n{''.join(lines)}"
    )
