"""Ratios against named baselines, each measured in this one run: `make bench`.

sweep: the engine against the plain way (deepcopy, load_state_dict, evaluate the whole network), on every
ninth pair, same batches, same number format, one thread. train: bfloat16 autocast against float32.
"""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from prrmse.data.slices import Slices
from prrmse.device import choose_device, has_bfloat16, make_deterministic
from prrmse.evaluate import Evaluation
from prrmse.layers import inventory, swap
from prrmse.nets import initialise
from prrmse.sweep import sweep
from prrmse.train import train

SIZE, SLICES, REPEATS = 64, 64, 3
NETS = {"unet": {"width": 12}, "pspnet": {"width": 32, "head_width": 256}}
COMPUTE = {"device": "auto", "threads": 1, "evaluation_batch_size": 64, "resume_seconds": 3600}
SETTINGS = {"steps": 12, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0, "loss": "ce+dice"}


def noise() -> Slices:
    """Slices of noise: speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((SLICES, SIZE, SIZE)).astype(np.float32)
    label = rng.integers(0, 4, image.shape).astype(np.uint8)
    index = pd.DataFrame({"patient": [f"p{i // 8}" for i in range(SLICES)], "frame": "1", "slice": range(SLICES)})
    meta = {"dataset": "noise", "classes": {"1": "a", "2": "b", "3": "c"}, "spacing_mm": 1.0}
    return Slices(image, label, index.assign(split="val"), meta)


def seconds(work: Callable[[], object]) -> float:
    """Median of a few runs, after one to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare(name: str, ours: float, baseline: float, of: str) -> None:
    print(f"{name:28s} {ours:7.2f} s, {of}: {baseline:7.2f} s, ratio {baseline / ours:.2f}", flush=True)


def bench_sweep(net: str, data: Slices) -> None:
    target, source = (initialise(net, NETS[net], "independent", "none", m, 0).eval() for m in ("a-seg", "b-seg"))
    evaluation = Evaluation(data, {**COMPUTE, "precision": "float32"}, 4)
    layers = inventory(target)[::9]
    own, other = copy.deepcopy(target.state_dict()), source.state_dict()

    def plain() -> None:
        for layer in layers:
            swapped = copy.deepcopy(target)
            swapped.load_state_dict(swap(own, other, [layer]))
            evaluation.counts(evaluation.place(swapped))

    ours = seconds(lambda: sweep(target, other, layers, evaluation))
    compare(f"sweep, {net}, {len(layers)} pairs", ours, seconds(plain), "plain way")


def bench_train(net: str, data: Slices) -> None:
    def steps(precision: str) -> Callable[[], object]:
        settings, compute = {**SETTINGS, "augment": False}, {**COMPUTE, "precision": precision}
        return lambda: train(
            initialise(net, NETS[net], "shared", "none", "a-seg", 0), data, "seg", settings, 0, compute
        )

    compare(f"train, {net}, bfloat16", seconds(steps("bfloat16")), seconds(steps("float32")), "float32")


def main() -> None:
    make_deterministic(COMPUTE["threads"])
    device = choose_device("auto")
    print(f"{platform.machine()}, {device}, torch {torch.__version__}, one thread, bfloat16: {has_bfloat16(device)}")
    data = noise()
    for net in NETS:
        bench_sweep(net, data)
        bench_train(net, data)


if __name__ == "__main__":
    main()
