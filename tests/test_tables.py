"""Tables as Markdown and LaTeX: whatever names a user chose, each cell is read back as it was."""

import re

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from tables import transfer_rows

from prrmse.tables.markdown import markdown_table
from prrmse.tables.paper import transfer_latex, transfer_markdown

ODD = r"LV | wall {50%} ~^\_#$&"
DATA = pd.DataFrame({"provenance": ["phantom"]})


def cells(markdown):
    """Header and rows, as a Markdown parser reads them."""
    tokens = MarkdownIt().enable("table").parse(markdown)
    rows, row = [], None
    for token in tokens:
        if token.type == "tr_open":
            row = []
            rows.append(row)
        elif token.type == "tr_close":
            row = None
        elif token.type == "inline" and row is not None:
            row.append("".join(child.content for child in token.children))
    return rows


def test_markdown_is_read_back_as_it_was():
    table = pd.DataFrame(
        {"a|b": ["1e5", "x | y"], "n": [1, 2], "value": [0.12345, np.nan], "none": [None, "two\nlines"]}
    )
    assert cells(markdown_table(table)) == [
        ["a|b", "n", "value", "none"],
        ["1e5", "1", "0.123", "-"],
        ["x | y", "2", "-", "two lines"],
    ]


def unescaped(latex):
    """What LaTeX prints for escaped text."""
    names = {r"\textasciitilde ": "~", r"\textasciicircum ": "^", r"\textbackslash ": "\x00"}
    for command, character in names.items():
        latex = latex.replace(command, character)
    assert not re.search(r"(?<!\\)[&%$#_{}]", latex), "a character that LaTeX would read as a command"
    return re.sub(r"\\([&%$#_{}])", r"\1", latex).replace("\x00", "\\")


@pytest.fixture
def transfer():
    rows = transfer_rows(lambda _: 0.0)
    return rows.replace({"class": {"LV": ODD}})


def test_names_of_classes_are_escaped_in_latex(transfer):
    latex = transfer_latex(transfer, DATA)
    header = latex.split("\\toprule\n")[1].split(" \\\\\n")[0]
    names = [unescaped(cell) for cell in re.split(r"(?<!\\)&", header)]
    assert ODD in [name.strip() for name in names]
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}"), "braces of LaTeX balance"
    assert latex.isascii()


def test_names_of_classes_are_escaped_in_markdown(transfer):
    rows = cells(transfer_markdown(transfer, DATA))
    assert ODD in rows[0]
    assert {len(row) for row in rows} == {len(rows[0])}
