"""Verdicts by pair and by network."""

from argparse import Namespace

from prrmse.job import read_table, run, write_table
from prrmse.verdict import network_table, verdict_table


def main(a: Namespace) -> None:
    settings = a.params["verdict"]
    verdict = verdict_table(read_table(a.drops), settings)
    write_table(verdict, a.verdict)
    write_table(network_table(verdict, settings), a.network)


run(main, "params", "drops", "verdict", "network")
