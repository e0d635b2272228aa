"""Read, check and resample one data set."""

from argparse import Namespace
from pathlib import Path

from prrmse.data.prepare import prepare
from prrmse.data.slices import save_slices
from prrmse.run.hashes import check_phantom
from prrmse.run.job import run


def main(a: Namespace) -> None:
    spec = a.params[f"datasets.{a.dataset}"]
    lines = Path(f"data/phantom/{a.dataset}.sha256")
    if spec.phantom and Path(spec.root) == lines.with_suffix(""):
        check_phantom(lines)
    save_slices(prepare(a.dataset, spec), a.data)


run(main, "dataset", "params", "data")
