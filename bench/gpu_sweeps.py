"""Sweeps on a GPU: against a few lines of torch, pixel by pixel; and against the fastest way of few lines of torch."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from common import CLASSES, NETS, noise, pair, seconds, table, torch_as_it_comes
from sweeps import plain_way
from torch import nn

from prrmse.data.slices import Slices
from prrmse.engine.sweep import sweep
from prrmse.learning.dice import Counts
from prrmse.learning.evaluate import Evaluation
from prrmse.names import Layer
from prrmse.nets.layers import inventory
from prrmse.settings import Compute


def oracle(
    target: nn.Module,
    source: Mapping[str, torch.Tensor],
    layer: Layer,
    data: Slices,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Counts:
    """A swap in few lines of torch, one row for each slice; no code of ours."""
    network = copy.deepcopy(target)
    network.load_state_dict({**network.state_dict(), layer.tensor: source[layer.tensor]})
    network.to(device).eval()
    found = []
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        for image in torch.from_numpy(data.image).unsqueeze(1).split(batch):
            found.append(network(image.to(device)).argmax(1).cpu())
    return counted(torch.cat(found), torch.from_numpy(data.label))


def counted(prediction: torch.Tensor, label: torch.Tensor) -> Counts:
    """Counts of each slice."""
    p, t = ([x == c for c in range(CLASSES)] for x in (prediction, label))
    both = [a & b for a, b in zip(p, t, strict=True)]
    return Counts(*(torch.stack([mask.sum((1, 2)) for mask in masks], 1).numpy() for masks in (both, p, t)))


def pixels(found: list[Counts], others: list[Counts]) -> int:
    """Pixels of another class, at least: half the change of the sizes of each slice's classes, or of their overlaps."""
    return sum(
        max(int(np.abs(a.predicted - b.predicted).sum()) // 2, int(np.abs(a.both - b.both).sum()) // 2)
        for a, b in zip(found, others, strict=True)
    )


def against_an_oracle(slices: int, every: int) -> str:
    """Every engine, in both dtypes, against `oracle`; then ``exact`` on the GPU against ``exact`` on the CPU."""
    data = one_slice_a_patient(slices)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, object]] = []
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    for net, arguments in NETS.items():
        target, source = pair(net, arguments)
        layers, state = inventory(target)[::every], source.state_dict()
        for precision in precisions:
            compute = Compute(evaluation_precision=precision, evaluation_batch_size=16)
            dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
            with torch_as_it_comes():
                torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = False  # what is compared
                expected = [oracle(target, state, layer, data, 16, dtype, device) for layer in layers]
            row: dict[str, object] = {"network": net, "dtype": precision, "pairs": len(layers)}
            row["pixels"] = f"{data.label.size * len(layers) / 1e6:.0f} million"
            for engine in ("plain", "exact", "fast"):
                _, found = sweep(target, state, layers, Evaluation(data, compute, CLASSES), engine=engine)
                row[engine] = pixels(found, expected)
            rows.append(row)
    text = f"\n### Pixels that differ from a few lines of torch on the GPU, {slices} slices of noise\n\n" + table(rows)
    return text + "\n\n" + _gpu_against_cpu(one_slice_a_patient(max(1, slices // 4)), 8 * every)


def _gpu_against_cpu(data: Slices, every: int) -> str:
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    for net, arguments in NETS.items():
        target, source = pair(net, arguments)
        layers = inventory(target)[::every]
        found = {}
        for device in ("auto", "cpu"):
            compute = Compute(device=device, evaluation_batch_size=16)
            evaluation = Evaluation(data, compute, CLASSES)
            for engine in ("exact", "fast"):
                found[device, engine] = sweep(target, source.state_dict(), layers, evaluation, engine=engine)[1]
        rows.append({"network": net, "pairs": len(layers), "pixels": data.label.size * len(layers), **{
                     engine: pixels(found["auto", engine], found["cpu", engine]) for engine in ("exact", "fast")
                     }})  # fmt: skip
    torch.set_num_threads(threads)
    return "Pixels in which the GPU differs from the CPU, float32:\n\n" + table(rows)


def one_slice_a_patient(slices: int) -> Slices:
    """Noise, counted for each slice."""
    data = noise(slices)
    data.index["patient"] = [f"p{i:04d}" for i in range(slices)]
    return data


class Prepared:
    """The fastest way of few lines: everything on the device, tensors swapped in place, one graph of CUDA for all.

    Channels last, cuDNN's fastest algorithms, predictions counted on the device. Nothing before the swapped layer is
    kept, so the whole network is run for each swap.

    Args:
        target, source: networks; copied.
        data: the slices.
        batch: slices at once.
        compiled: by torch.compile first.
    """

    def __init__(self, target: nn.Module, source: nn.Module, data: Slices, batch: int, *, compiled: bool) -> None:
        self.network = copy.deepcopy(target).cuda().to(memory_format=torch.channels_last).eval()
        self.own = self.network.state_dict()
        self.source = {k: v.cuda() for k, v in source.state_dict().items()}
        self.image = torch.from_numpy(data.image).unsqueeze(1).cuda().contiguous(memory_format=torch.channels_last)
        label = torch.from_numpy(data.label).cuda().long()
        self.truth = torch.stack([label == c for c in range(CLASSES)]).flatten(2).float().transpose(0, 1)
        self.batch, self.name = batch, f"one graph{', compiled' if compiled else ''}, batches of {batch}"
        self.run: Callable[[torch.Tensor], torch.Tensor] = torch.compile(self.network) if compiled else self.network
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.confusion()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.found = self.confusion()

    def confusion(self) -> torch.Tensor:
        """``[N, true, predicted]`` of all slices."""
        parts = []
        for image, truth in zip(self.image.split(self.batch), self.truth.split(self.batch), strict=True):
            made = self.run(image).argmax(1).flatten(1)
            predicted = torch.stack([made == c for c in range(CLASSES)], 2).float()
            parts.append(torch.bmm(truth, predicted))
        return torch.cat(parts)

    def swap(self, layer: Layer) -> torch.Tensor:
        """The confusion with one tensor of the source."""
        tensor = self.own[layer.tensor]
        before = tensor.clone()
        tensor.copy_(self.source[layer.tensor])
        self.graph.replay()
        tensor.copy_(before)
        return self.found.clone()

    def all(self, layers: list[Layer]) -> torch.Tensor:
        """Of every swap, on the CPU."""
        return torch.stack([self.swap(layer) for layer in layers]).cpu()


def against_baselines(slices: int, nets: dict[str, dict[str, Any]], *, compiled: bool) -> str:
    """Every pair: the engines, the plain way (one pair, times the number of pairs), and `Prepared`."""
    data = noise(slices)
    rows: list[dict[str, object]] = []
    for net, arguments in nets.items():
        target, source = pair(net, arguments)
        state, layers = source.state_dict(), inventory(target)
        evaluation = Evaluation(data, Compute(evaluation_batch_size=64), CLASSES)
        took: dict[str, float] = {}
        for engine, memory in (("fast", 2000), ("fast", 20000), ("exact", 2000)):
            run = partial(sweep, target, state, layers, evaluation, engine=engine, memory_mb=memory)
            took[f"{engine}, {memory} MiB"] = seconds(run, 1 if took else 2)
        fast = took["fast, 2000 MiB"]
        for batch in (16, 64):
            one = seconds(partial(plain_way, target, state, layers[0], data, batch), 3)
            took[f"plain way, batches of {batch}"] = one * len(layers)
        sizes = class_sizes(sweep(target, state, layers, evaluation)[1])
        for batch, by_compiler in [(64, False), (slices, False), *([(64, True)] if compiled else [])]:
            took |= _prepared(partial(Prepared, target, source, data, batch, compiled=by_compiler), layers, sizes)
        rows += [{"network": f"{net} {arguments}", "pairs": len(layers), "way": way, "s": f"{s:.2f}",
                  "over fast, 2000 MiB": f"{s / fast:.2f}"} for way, s in took.items()]  # fmt: skip
    return f"\n### Full sweep, {slices} slices of 128 x 128, float32\n\n" + table(rows)


def class_sizes(found: list[Counts]) -> torch.Tensor:
    """Pixels of each predicted class, of each swap."""
    return torch.stack([torch.from_numpy(counts.predicted.sum(0)) for counts in found])


def _prepared(make: Callable[[], Prepared], layers: list[Layer], sizes: torch.Tensor) -> dict[str, float]:
    """Seconds of all swaps, without and with what comes before; by a name that says how many pixels differ."""
    try:
        with torch_as_it_comes(), torch.inference_mode():
            torch.backends.cudnn.allow_tf32 = False  # what is compared is float32
            start = time.perf_counter()
            prepared = make()
            made = prepared.all(layers).sum((1, 2)).long()
            first = time.perf_counter() - start
            name = f"{prepared.name}, pixels {int((made - sizes).abs().sum()) // 2}"
            took = seconds(lambda: prepared.all(layers), 2)
    except Exception as e:  # too large, or no compiler
        return {f"one graph: {type(e).__name__} {str(e).strip().splitlines()[0][:80]}": float("nan")}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return {name: took, f"{prepared.name}, the first time": first}
