"""The one exception for anything that the user, not the program, has to put right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

# Optional packages by the name under which they are imported, and the extra of prrmse that installs them.
EXTRAS: Final = {
    "jinja2": "report",
    "matplotlib": "report",
    "seaborn": "report",
    "tabulate": "report",
    "torchvision": "pspnet",
    "ruamel": "workflow",
    "SimpleITK": "images",
    "nnunetv2": "networks",
}

# The name of a setting, and what it belongs to: <learning_rate>, <root:acdc>. Not a group of a regular expression.
ROLE = re.compile(r"(?<!\(\?P)<(\w+)(?::([^<>]*))?>")


class InputError(ValueError):
    """Bad input: a file, a parameter or an argument.

    The message is one line that names the file or the setting, says what is wrong and what to do. A setting stands in
    angle brackets, e.g. ``<memory_mb>``, because its name depends on the interface: a key of params.yaml, a flag of
    the command line, an argument in Python. Interfaces print ``error: ...`` and exit with status 2, no traceback.
    """

    def __str__(self) -> str:
        return self.message_for({})

    def message_for(self, names: Mapping[str, str]) -> str:
        """The message with the names that an interface gives to settings; their own where it gives none.

        Args:
            names: e.g. ``{"root": "datasets.{}.root"}``; ``{}`` is filled with what the setting belongs to.
        """
        return ROLE.sub(lambda m: names.get(m[1], m[1]).replace("{}", m[2] or ""), str(self.args[0]))


def missing_extra(error: ImportError) -> str | None:
    """What to install if an optional package could not be imported; None for any other package."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return f"this needs {package}, which is not installed; pip install 'prrmse[{EXTRAS[package]}]'"
