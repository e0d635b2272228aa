"""The run as a Workflow Run RO-Crate."""

from argparse import Namespace

from prrmse.run.crate import write_crate
from prrmse.run.job import run


def main(a: Namespace) -> None:
    write_crate(a.crate)


run(main, "manifest", "crate")
