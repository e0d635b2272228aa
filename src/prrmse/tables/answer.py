"""Answers to statements."""

from __future__ import annotations

from typing import NamedTuple

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


class Answer(NamedTuple):
    """An answer and the sentence with its numbers."""

    answer: str
    statistic: str
