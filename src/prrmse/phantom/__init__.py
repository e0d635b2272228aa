"""Procedural cardiac short-axis cohorts, written in the formats of the real data sets.

They are the embedded default, so that the whole workflow runs without a download. Everything computed
from them says "phantom".
"""

from __future__ import annotations

import shutil
from pathlib import Path

from prrmse.errors import InputError
from prrmse.phantom import acdc, rvsc, t1

WRITERS = {"acdc": acdc.write, "rvsc": rvsc.write, "t1": t1.write}


def generate(dataset: str, root: Path, *, patients: int, seed: int) -> None:
    """Write a cohort, complete or not at all; equal arguments give equal bytes.

    Args:
        dataset: ``acdc``, ``rvsc`` or ``t1``: which distributed format.
        root: a folder that does not exist yet.
        patients: size of the cohort; patient k is the same whatever it is.
        seed: of the cohort.

    Raises:
        InputError: unknown format, fewer than 2 patients, or an existing root.
    """
    if dataset not in WRITERS:
        raise InputError(f"no phantom in the format {dataset!r}; known are {', '.join(WRITERS)}")
    if patients < 2:
        raise InputError(f"a phantom cohort needs 2 or more patients, not {patients}")
    if root.exists():
        raise InputError(f"{root}: already exists; remove it first")
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    WRITERS[dataset](partial, patients, seed)
    note = f"Phantom, not patient data: {dataset} format, {patients} patients, seed {seed}, written by prrmse.\n"
    (partial / "PHANTOM.md").write_text(note)
    partial.rename(root)
