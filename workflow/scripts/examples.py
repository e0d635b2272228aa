"""What the target's base model makes of its best, median and worst patient, before and after swaps from a source."""

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
    verdict = read_table(a.verdict)
    own = verdict[(verdict["net"] == a.net) & (verdict["target"] == a.target) & (verdict["source"] == a.source)]
    files = Path(a.checkpoint), Path(a.source_checkpoint), Path(a.data)
    rows, classes = examples(*files, read_table(a.dice), own, a.params[f"nets.{a.net}"])
    draw_examples(rows, classes, a.net, a.source, Drawing(a.params["figures"]), Path(a.out))


names = ("net", "target", "source", "checkpoint", "source-checkpoint", "data", "dice", "verdict", "params", "out")
run(main, *names)
