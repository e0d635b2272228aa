"""Verdicts by pair and by network."""

from argparse import Namespace

from prrmse.run.job import run
from prrmse.tables.store import read_table, write_table
from prrmse.tables.verdict import network_table, verdict_table


def main(a: Namespace) -> None:
    settings = a.params["verdict"]
    verdict = verdict_table(read_table(a.drops), settings)
    write_table(verdict, a.verdict)
    write_table(network_table(verdict, settings), a.network)


run(main, "params", "drops", "verdict", "network")
