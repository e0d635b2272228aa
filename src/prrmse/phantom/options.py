"""Options of a cohort, checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

from prrmse.errors import InputError


@dataclass(frozen=True)
class AcdcOptions:
    """`matrix`: rows, columns; `noise`: SD as a share of LV blood; `myocardium_to_blood`: mean signal ratio."""

    matrix: tuple[int, int] = (144, 128)
    slices: int = 6
    noise: float = 0.02
    myocardium_to_blood: float = 0.41


@dataclass(frozen=True)
class RvscOptions:
    """As `AcdcOptions`; `matrix` is that of portrait images, `landscape` the share of patients lying across."""

    matrix: tuple[int, int] = (128, 108)
    slices: int = 6
    noise: float = 0.025
    myocardium_to_blood: float = 0.41
    landscape: float = 0.25


@dataclass(frozen=True)
class T1Options:
    """`snr`: mean of the fully relaxed myocardium; `motion_mm`: SD of the shift between images, each axis."""

    matrix: tuple[int, int] = (140, 140)
    slices: int = 5
    snr: float = 22.0
    motion_mm: float = 1.8


OPTIONS: dict[str, type[AcdcOptions | RvscOptions | T1Options]] = {
    "acdc": AcdcOptions,
    "rvsc": RvscOptions,
    "t1": T1Options,
}

# Limits that hold for every format: beyond them the heart leaves the image or drowns.
_LIMITS = {
    "slices": (2, 40),
    "noise": (0.0, 0.5),
    "myocardium_to_blood": (0.1, 0.9),
    "landscape": (0.0, 1.0),
    "snr": (2.0, 1000.0),
    "motion_mm": (0.0, 6.0),
}
_SMALLEST, _LARGEST = 96, 512

Options = TypeVar("Options", bound=AcdcOptions | RvscOptions | T1Options)


def checked_options(kind: type[Options], given: dict[str, Any]) -> Options:
    """Options of one format, defaults filled in.

    Raises:
        InputError: unknown name, wrong type, or out of range.
    """
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    for name, value in given.items():
        if name not in fields:
            raise InputError(f"phantom option {name!r} is unknown; known are {', '.join(fields)}")
        if name == "matrix":
            _check_matrix(value)
        else:
            _check_number(name, value, whole=isinstance(fields[name], int))
    if "matrix" in given:
        given = {**given, "matrix": tuple(given["matrix"])}
    return kind(**given)


def _check_matrix(value: object) -> None:
    ok = isinstance(value, (tuple, list)) and len(value) == 2
    if not ok or not all(type(n) is int and _SMALLEST <= n <= _LARGEST for n in value):  # type: ignore[attr-defined]
        raise InputError(f"phantom option matrix: {value!r}; give [rows, columns], each {_SMALLEST} to {_LARGEST}")


def _check_number(name: str, value: object, whole: bool) -> None:
    low, high = _LIMITS[name]
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        raise InputError(f"phantom option {name}: {value!r}; give a {'whole ' * whole}number from {low} to {high}")
