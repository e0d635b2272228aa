"""What the target's base model makes of its best, median and worst patient."""

from argparse import Namespace
from pathlib import Path

import torch

from prrmse.experiments.examples import examples
from prrmse.figures.examples import draw_examples
from prrmse.figures.style import Drawing
from prrmse.run.job import run
from prrmse.tables.store import read_table


def main(a: Namespace) -> None:
    torch.set_num_threads(1)  # how sums are rounded
    rows, classes = examples(Path(a.checkpoint), Path(a.data), read_table(a.dice), a.params[f"nets.{a.net}"])
    draw_examples(rows, classes, a.net, Drawing(a.params["figures"]), Path(a.out))


run(main, "net", "checkpoint", "data", "dice", "params", "out")
