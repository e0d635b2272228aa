"""What the thin scripts of the workflow share: arguments, logging, tables in and out, one-line errors."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from prrmse.config.params import PARAMETERS, parse_sections
from prrmse.errors import InputError
from prrmse.tables.store import write_table


def run(main: Callable[[argparse.Namespace], None], *names: str, many: str = "") -> None:
    """Parse ``--name value`` for each name (``many``: several values), run, report errors in one line.

    ``--params`` is what `prrmse.config.params.section` wrote; the process of a job that is given ``compute`` is set up
    for that first (`prrmse.learning.device.set_up_process`). Exit status: 0 done, 2 the user has to mend something.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=parse_sections if name == "params" else str)
    if many:
        parser.add_argument(f"--{many}", nargs="*", default=[])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if compute := getattr(arguments, "params", {}).get("compute"):
            from prrmse.learning.device import set_up_process  # imports torch

            set_up_process(compute.device, compute.threads)
        main(arguments)
    except InputError as e:
        print(f"error: {e.said(PARAMETERS)}", file=sys.stderr)
        raise SystemExit(2) from None


def run_on_pair(experiment: Callable[..., pd.DataFrame]) -> None:
    """`run` for an experiment on a target and a source, as `prrmse.experiments.swap.swap_experiment` is one."""

    def main(a: argparse.Namespace) -> None:
        checkpoints = Path(a.target_checkpoint), Path(a.source_checkpoint)
        engine = {"engine": a.params["swap.engine"], "memory_mb": a.params["swap.memory_mb"]}
        part = experiment(*checkpoints, Path(a.data), a.params[f"nets.{a.net}"], a.params["compute"], **engine)
        write_table(part.assign(net=a.net, target=a.target, source=a.source, seed=int(a.seed)), a.table)

    names = ("net", "target", "source", "seed", "target-checkpoint", "source-checkpoint", "data", "params", "table")
    run(main, *names)
