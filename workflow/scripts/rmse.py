"""RMSE of kernels and biases between every two base models of a network."""

from argparse import Namespace

from prrmse.distance import rmse_all_pairs
from prrmse.job import run, write_table


def main(a: Namespace) -> None:
    write_table(rmse_all_pairs(a.checkpoints), a.table)


run(main, "table", many="checkpoints")
