"""How many steps the arms of the transfer experiment need: Dice by steps, on base models that a run has left.

    python bench/transfer_steps.py --steps 100 200 300 600 --seeds 0 1 --statistics both

Prints a table for params.yaml's networks, sources and samples. One thread; a row is printed as soon as it is known.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import re
import tempfile
import time
from pathlib import Path
from typing import Any

from prrmse.config.checks import network_items
from prrmse.config.params import read_params
from prrmse.experiments.transfer import transfer_run
from prrmse.learning.target import FewPatients


class Rises(logging.Handler):
    """Collects what trainings say of their last tenth."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"Dice on training slices (\S+), in the last tenth of the steps (\S+)", record.getMessage())
        if found:
            self.text = f"{found[1]} | {found[2]}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 200, 300, 600])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[10])
    parser.add_argument("--statistics", nargs="+", default=["both"])
    parser.add_argument("--arms", nargs="+", default=["scratch", "freeze", "finetune"])
    parser.add_argument("--checkpoints", type=Path, default=Path("results/checkpoints"))
    parser.add_argument("--data", type=Path, default=Path("data/processed"))
    parser.add_argument("--train", nargs="*", default=[], metavar="KEY=VALUE", help="of transfer.train")
    a = parser.parse_args()
    params = read_params("params.yaml")
    transfer = params.transfer
    networks = dict(network_items(params))
    given = {key: json.loads(value) for key, value in (pair.split("=") for pair in a.train)}
    data = a.data / f"{transfer.target.rpartition('-')[0]}.npz"
    rises = Rises()
    logger = logging.getLogger("prrmse.learning.progress")
    logger.setLevel(logging.INFO)
    logger.addHandler(rises)
    print("| net | patients | arm | source | statistics | seed | steps | Dice | training Dice | last tenth | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    arms = [(arm, s) for arm in a.arms for s in (["none"] if arm == "scratch" else transfer.sources)]
    for net, samples, seed, steps, (arm, source) in itertools.product(transfer.nets, a.samples, a.seeds, a.steps, arms):
        treatments: list[Any] = a.statistics if arm == "freeze" else ["-"]
        for statistics in treatments:
            start = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = None if source == "none" else a.checkpoints / net / source / f"seed{seed}.safetensors"
                few = FewPatients(
                    *(net, transfer.target, samples, source, seed, data),
                    *(checkpoint, networks[net], params.init, params.compute),
                )
                table = transfer_run(
                    few,
                    arm,
                    plan=transfer.plan,
                    reuse_final=transfer.reuse_final,
                    frozen_statistics=statistics if arm == "freeze" else transfer.frozen_statistics,
                    settings=transfer.train.model_copy(update={**given, "steps": steps}),
                    resume=Path(folder) / "resume",
                )
            took = time.process_time() - start
            dice = table[table["class"] == "mean"]["dice"].mean()
            print(
                f"| {net} | {samples} | {arm} | {source} | {statistics} | {seed} | {steps} | {dice:.3f} | "
                f"{rises.text} | {took:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
