"""Shift and scale of BN outputs for every (target, source) pair."""

from argparse import ArgumentParser

from prrmse.experiments.bn_shift import bn_shift_all_pairs
from prrmse.tables.store import write_table

parser = ArgumentParser(description=__doc__)
parser.add_argument("--table", required=True)
parser.add_argument("--targets", nargs="+", required=True)
parser.add_argument("--sources", nargs="+", required=True)
a = parser.parse_args()
write_table(bn_shift_all_pairs(a.targets, a.sources), a.table)
