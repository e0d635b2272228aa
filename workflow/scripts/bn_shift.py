"""Shift and scale of BN outputs for every (target, source) pair."""

from argparse import Namespace

from prrmse.experiments.bn_shift import bn_shift_all_pairs
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    write_table(bn_shift_all_pairs(a.targets, a.sources), a.table)


run(main, "table", lists=["targets", "sources"])
