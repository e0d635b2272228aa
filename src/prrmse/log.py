"""Messages to the user: on standard error, from this package alone."""

from __future__ import annotations

import logging
import os
import sys


class _Coloured(logging.Formatter):
    """Warnings in yellow."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"\033[33m{text}\033[0m" if record.levelno >= logging.WARNING else text


def in_words(seconds: float) -> str:
    """A time for people: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def show_messages() -> None:
    """Show what this package reports (INFO and above), and only the warnings of other libraries."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):  # no-color.org
        handler.setFormatter(_Coloured())
    logging.basicConfig(format="%(message)s", handlers=[handler])
    logging.getLogger("prrmse").setLevel(logging.INFO)
