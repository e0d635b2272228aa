"""Tables as Markdown."""

from __future__ import annotations

import re

import pandas as pd

# What would end a cell, begin code or a tag of HTML, or make a link: names come from data sets.
SPECIAL = re.compile(r"[\\|`]|<(?=[A-Za-z/!?])|\[(?=[^\]]*\]\()")


def markdown_table(table: pd.DataFrame) -> str:
    """The table in GitHub's Markdown: floats with three decimals, a dash for what is missing."""
    shown = table.map(_cell).rename(columns=_cell)
    # Text stays as it is: neither read as a number nor padded.
    text: str = shown.to_markdown(index=False, tablefmt="github", disable_numparse=True, stralign=None, numalign=None)
    return text


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "-" if pd.isna(value) else f"{value:.3f}"
    if value is None or value is pd.NA or value is pd.NaT:
        return "-"
    return SPECIAL.sub(r"\\\g<0>", " ".join(str(value).splitlines()))
