"""Patients of cases, from the cases' names: frames and visits of one patient must stay in one split."""

from __future__ import annotations

import re
from collections.abc import Iterable

from prrmse.errors import InputError

# Common endings that name a frame, a visit, a time or a slice of a patient; those without a number also in front.
_ALONE = "ed|es|dia|sys|diastole|systole|diastolic|systolic|baseline|bl|follow-?up|fu|pre|post|rest|stress"
_NUMBERED = (
    "frame|fr|phase|ph|timepoint|time|tp|ti|t|session|ses|visit|v|scan|exam|acq|rep|run|month|mo|m|week|w|day|d|year|y|"
    "slice|sl|z"
)
_TOKEN = rf"(?:(?:{_ALONE})(?:[-_]?\d+)?|(?:{_NUMBERED})[-_]?\d+)"
_LAST = re.compile(rf"(?P<patient>.*\d[^-_. ]*?)(?:(?:[-_. ]+{_TOKEN})+|(?<=\d)e[ds])", re.IGNORECASE)
_WITHOUT_NUMBER = re.compile(rf"(?P<patient>.+?)[-_. ]+(?:{_ALONE})", re.IGNORECASE)
_FIRST = re.compile(rf"(?:{_ALONE})[-_. ]+(?P<patient>.*\d.*)", re.IGNORECASE)
_BIDS = re.compile(r"(?P<patient>sub-[A-Za-z0-9]+)(?:_.*)?")
_COUNTED = re.compile(r"(?P<patient>.*\d)[-_.](?P<visit>\d+)")
# So many visits of a patient are always plausible; more, if there are at least as many patients.
_VISITS = 9


def patients_of(cases: Iterable[str], pattern: str | None = None) -> dict[str, tuple[str, str]]:
    """Patient and frame of every case.

    Without a pattern a patient is recognised by a known ending of the name: ``patient001_ED``,
    ``patient001_frame01``, ``sub-01_ses-02`` (BIDS), ``MM_A0S9V9_ES``, ``ES_007``, ``p7_slice03``, ``P001-1``. A bare
    number counts as a visit only behind another number, and if there are several patients, not fewer than visits (or
    up to 9 visits): else ``BraTS2021_00417`` would be visit 417 of one patient. What is not recognised is a patient of
    its own.

    Args:
        cases: names.
        pattern: regular expression with a group ``patient`` and, where patients have several cases, ``frame``.

    Returns:
        Case -> (patient, frame); frame is "1" where the name has none.

    Raises:
        InputError: the pattern is none, or does not match.
    """
    cases = list(cases)
    if pattern is not None:
        return {case: _by_pattern(case, pattern) for case in cases}
    named = {case: _by_name(case) for case in cases}
    counted = {case: found for case, (patient, _) in named.items() if (found := _COUNTED.fullmatch(patient))}
    patients, visits = ({found[i] for found in counted.values()} for i in ("patient", "visit"))
    if len(patients) > 1 and len(visits) <= max(_VISITS, len(patients)):
        for case, found in counted.items():
            frame = named[case][1]
            named[case] = found["patient"], f"visit{found['visit']}" + ("" if frame == "1" else f"_{frame}")
    return named


def within_another(patients: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of patients of whom the first one's name and a separator begin the second's: they may be one patient.

    So it is where an ending is known and another is not: of ``P01_T2`` and ``P01_LGE``, the former is a time point of
    ``P01``, the latter a patient of its own.
    """
    known = set(patients)
    starts = ((name[: found.start()], name) for name in sorted(known) for found in re.finditer("[-_. ]", name))
    return [(start, name) for start, name in starts if start in known]


def _by_pattern(case: str, pattern: str) -> tuple[str, str]:
    try:
        found = re.search(pattern, case)
    except re.error as e:
        raise InputError(f"<case_pattern>: {pattern!r} is no regular expression ({e}); fix it") from None
    ids = found.groupdict() if found else {}
    if not ids.get("patient"):
        raise InputError(
            f"<case_pattern>: {pattern!r} finds no group `patient` in the case {case!r}; write e.g. "
            r"(?P<patient>patient\d+)_(?P<frame>frame\d+)"
        )
    return ids["patient"], ids.get("frame") or "1"


def _by_name(case: str) -> tuple[str, str]:
    for scheme in (_BIDS, _LAST, _WITHOUT_NUMBER, _FIRST):
        if found := scheme.fullmatch(case):
            start, end = found.span("patient")
            return found["patient"], (case[:start] + case[end:]).strip("-_. ") or "1"
    return case, "1"
