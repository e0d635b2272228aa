"""Messages to the user: on standard error, from this package alone."""

from __future__ import annotations

import logging
import sys


def show_messages() -> None:
    """Show what this package reports (INFO and above), and only the warnings of other libraries."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("prrmse").setLevel(logging.INFO)
