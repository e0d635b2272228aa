"""Splits by patient: seeded, checked, recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from prrmse.data.slices import SPLITS
from prrmse.errors import InputError
from prrmse.seeding import derive_seed
from prrmse.settings import Split


def split_patients(dataset: str, spec: Split, folders: dict[str, str | None]) -> dict[str, str]:
    """Patient -> split; patients that are in none are left out.

    ``random`` and ``ordered`` never draw the release's own test patients: so the split of ACDC's training
    set is the same with or without the testing folder beside it.

    Args:
        dataset: its name in params, for errors and the seed.
        spec: how to divide.
        folders: every patient, in the order of the release, with the split its folder implies (or None).

    Raises:
        InputError: too few patients, an unknown one, one in two splits, or an empty train or val.
    """
    key = f"<split:{dataset}>"
    kind = spec.kind
    if kind == "folder":
        chosen = {p: s for p, s in folders.items() if s is not None}
    elif kind == "file":
        chosen = _from_file(key, spec, set(folders))
    else:
        chosen = _by_count(key, spec, [p for p, s in folders.items() if s != "test"], dataset)
    _keep_together(key, spec, chosen, set(folders))
    for name in ("train", "val"):
        if name not in chosen.values():
            value = getattr(spec, name)
            wanted = "" if value is None else f", {name}: {value:g}"
            raise InputError(
                f"{key}.{name}: no patient is in {name}; found {len(folders)} patients, kind: {kind}{wanted}; "
                "choose another kind or other numbers"
            )
    return chosen


def _by_count(key: str, spec: Split, patients: list[str], dataset: str) -> dict[str, str]:
    """``random``: a seeded permutation; ``ordered``: the first train, the last validate (paper's T1)."""
    n = len(patients)
    counts = _counts(key, spec, n)
    if sum(counts.values()) > n:
        wanted = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        raise InputError(f"{key}.train: the split asks for {wanted}, but there are {n} patients; lower the numbers")
    if spec.kind == "random":
        rng = np.random.default_rng(derive_seed("split", dataset, spec.seed))
        patients = [patients[i] for i in rng.permutation(n)]
    train, val, test = (counts[name] for name in SPLITS)
    chosen = dict.fromkeys(patients[:train], "train")
    chosen |= dict.fromkeys(patients[train : train + test], "test")
    return chosen | dict.fromkeys(patients[n - val :], "val")


def _keep_together(key: str, spec: Split, chosen: dict[str, str], known: set[str]) -> None:
    """Move the further names of one person to the split of the first that is in any."""
    for names in spec.together:
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"{key}.together: patient {unknown[0]} is not in the data set; remove it")
        used = [name for name in names if name in chosen]
        if spec.kind == "file" and len({chosen[name] for name in used}) > 1:
            raise InputError(f"{spec.path}: {', '.join(used)} are one person ({key}.together) in two splits; fix it")
        chosen |= dict.fromkeys(used, chosen[used[0]]) if used else {}


def _counts(key: str, spec: Split, n: int) -> dict[str, int]:
    """Patients of each split; running totals are rounded, so that two halves of 7 are 4 and 3, not 4 and 4."""
    counts, total = {}, 0.0
    for name in SPLITS:
        value = getattr(spec, name) or 0
        if value >= 1 and value != int(value):
            raise InputError(
                f"{key}.{name}: {value:g} is neither a fraction below 1 nor a whole number of patients; fix it"
            )
        before, total = total, total + (value if value >= 1 else value * n)
        counts[name] = round(total) - round(before)
    return counts


def _from_file(key: str, spec: Split, known: set[str]) -> dict[str, str]:
    path = spec.path
    if not path or not Path(path).is_file():
        raise InputError(f"{key}.path: no such file: {path}; write one with the columns patient, split")
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    except ValueError as e:  # pandas' parser errors and undecodable text
        raise InputError(f"{path}: not a CSV ({' '.join(str(e).split())}); write the columns patient, split") from None
    if not {"patient", "split"} <= set(table.columns):
        raise InputError(f"{path}: needs the columns patient, split; found {', '.join(map(str, table.columns))}")
    twice = table["patient"][table["patient"].duplicated()].unique().tolist()
    if twice:
        raise InputError(f"{path}: patient {twice[0]} is listed twice; a patient belongs to one split")
    for patient, split in zip(table["patient"], table["split"], strict=True):
        if patient not in known:
            raise InputError(f"{path}: patient {patient} is not in the data set; remove the row")
        if split not in SPLITS:
            raise InputError(f"{path}: patient {patient} is in {split!r}; known splits are {', '.join(SPLITS)}")
    return dict(zip(table["patient"], table["split"], strict=True))
