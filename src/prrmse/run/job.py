"""What the scripts of the workflow share: arguments, logging, one-line errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from prrmse.config.params import PARAMETERS, parse_sections
from prrmse.failures import exit_status
from prrmse.log import show_messages


def run(
    main: Callable[[argparse.Namespace], None],
    *names: str,
    optional: Sequence[str] = (),
    lists: Sequence[str] = (),
) -> None:
    """Parse the command line, run, report errors in one line.

    Exit status: 0 done, otherwise as `exit_status`.

    Args:
        main: what to run; it gets the arguments as attributes.
        names: arguments of one value, all required. ``--params`` is what `prrmse.config.params.section` wrote; a
            process that is given ``compute`` is first set up for it (`prrmse.learning.device.set_up_process`).
        optional: arguments of one value or none (``--name`` alone), which is None.
        lists: arguments of several values. ``@FILE`` stands for the lines of a file, since the arguments of a program
            are limited in length.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__, fromfile_prefix_chars="@")
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=parse_sections if name == "params" else str)
    for name in optional:
        parser.add_argument(f"--{name}", required=True, nargs="?")
    for name in lists:
        parser.add_argument(f"--{name}", required=True, nargs="*")
    arguments = parser.parse_args()
    show_messages()

    def act() -> None:
        if compute := getattr(arguments, "params", {}).get("compute"):
            from prrmse.learning.device import set_up_process  # imports torch

            set_up_process(compute.device, compute.threads)
        main(arguments)

    if status := exit_status(act, PARAMETERS):
        raise SystemExit(status)
