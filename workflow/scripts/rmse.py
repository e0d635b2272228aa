"""RMSE of kernels and biases between every two base models of a network."""

from argparse import Namespace

from prrmse.experiments.rmse import rmse_all_pairs
from prrmse.run.job import run
from prrmse.tables.store import write_table


def main(a: Namespace) -> None:
    write_table(rmse_all_pairs(a.checkpoints), a.table)


run(main, "table", lists=["checkpoints"])
