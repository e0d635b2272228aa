"""What each part of the engine brings: the time of a sweep without it, over the time of the whole."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from unittest import mock

import torch
from common import CLASSES, NETS, PAPER, noise, pair, table
from sweeps import both, of_nnunet
from torch import nn

from prrmse.engine import onednn, schedule, winograd
from prrmse.engine import sweep as engine
from prrmse.engine.rewrite import REWRITES, rewrite
from prrmse.learning.dice import Masks, classes_of
from prrmse.learning.evaluate import Batch, Evaluation
from prrmse.nets.layers import inventory
from prrmse.settings import Compute

log = logging.getLogger(__name__)

COMPUTE = Compute(device="cpu", precision="float32")
CONTIGUOUS = "all rewrites, channels last"
Context = Callable[[], AbstractContextManager[object]]


def without(*names: str) -> Context:
    """A context in which the fast engine leaves these rewrites out."""
    return lambda: mock.patch.object(engine, "rewrite", partial(rewrite, without=names))


PARTS: dict[str, Context] = {
    "nothing": contextlib.nullcontext,
    **{name: without(name) for name in REWRITES},
    "all rewrites": without(*REWRITES),
    CONTIGUOUS: without(*REWRITES),
    "weights packed once": lambda: mock.patch.object(onednn, "PACK", dict.fromkeys(onednn.PACK)),
    "a bound on batches": lambda: mock.patch.object(schedule, "BATCH_BYTES", 2**40),
    "tiles multiplied in parts": lambda: mock.patch.object(winograd, "PART_BYTES", 2**40),
    "counting without argmax": lambda: mock.patch.object(Masks, "count_largest", lambda m, x: m.count(classes_of(x))),
}


def ablation(slices: int, every: int, rounds: int) -> str:
    """For the widths of the demo and of the paper, and nnU-Net's network, on every so many pairs; on one thread."""
    columns: dict[str, dict[str, str]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for widths, share in ((NETS, 1), (PAPER, 3)):
            for net, arguments in widths.items():
                evaluation = Evaluation(noise(max(1, slices // share)), COMPUTE, CLASSES)
                title = " ".join([net, *map(str, arguments.values())])
                columns[title] = _ratios(*pair(net, arguments), every * share, evaluation, rounds)
        evaluation = Evaluation(noise(slices), COMPUTE, CLASSES)
        columns["nnU-Net PlainConvUNet"] = _ratios(*both(partial(of_nnunet, 2)), every, evaluation, rounds)
    finally:
        torch.set_num_threads(threads)
    found = [{"without": name, **{title: column[name] for title, column in columns.items()}} for name in PARTS]
    title = "\n### Ablation: CPU time of `fast` without a part over CPU time with all, one thread"
    return f"{title}, {slices} slices\n\n" + table(found)


def _ratios(target: nn.Module, source: nn.Module, every: int, evaluation: Evaluation, rounds: int) -> dict[str, str]:
    """The least CPU time of a batch, by turns: what else the machine does only adds, and weighs on all."""
    layers, state = inventory(target)[::every], source.state_dict()
    found: dict[str, list[float]] = {name: [] for name in PARTS}
    for _ in range(rounds):
        for name, context in PARTS.items():
            on = evaluation.as_written() if name == CONTIGUOUS else evaluation
            with context(), mock.patch.object(engine, "tqdm", partial(_timed, found[name])):
                engine.sweep(target, state, layers, on)
        log.info("%s", {name: [round(1000 * t, 1) for t in times] for name, times in found.items()})  # ms for a slice
    return {name: f"{min(times) / min(found['nothing']):.2f}" for name, times in found.items()}


def _timed(times: list[float], batches: Sequence[Batch], **_: object) -> Iterator[Batch]:
    """In the place of a progress bar: notes CPU seconds for a slice of each batch; the first, which packs, comes twice.

    The sweep's counts are wrong by that.
    """
    yield batches[0]
    for batch in batches:
        start = time.process_time()  # not wall time: other processes may have the cores in between
        yield batch
        times.append((time.process_time() - start) / len(batch.image))
