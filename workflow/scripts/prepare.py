"""Read, check and resample one data set."""

from argparse import Namespace

from prrmse.data.prepare import prepare
from prrmse.data.slices import save_slices
from prrmse.run.job import run


def main(a: Namespace) -> None:
    save_slices(prepare(a.dataset, a.params[f"datasets.{a.dataset}"]), a.data)


run(main, "dataset", "params", "data")
