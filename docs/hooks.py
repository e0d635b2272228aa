"""What the site adds to the pages of the repository: links between pages, and the help of the commands."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from prrmse.cli.main import command_line


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Link the pages that a text names as ``docs/NAME.md``, and put in the help of every command."""
    markdown = re.sub(r"`?\bdocs/([\w-]+)\.md\b`?", r"[\1](\1.md)", markdown)
    return markdown.replace("<!-- help -->", help_of_commands())


def help_of_commands() -> str:
    """A section for each command."""
    os.environ["COLUMNS"] = "100"
    (commands,) = (a for a in command_line()._actions if isinstance(a, argparse._SubParsersAction))
    return "\n\n".join(f"## {name}\n\n```text\n{c.format_help().strip()}\n```" for name, c in commands.choices.items())
