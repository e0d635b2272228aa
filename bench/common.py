"""What the benchmarks share: slices of noise, networks of which every tensor differs, a clock, the machine."""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse.data.slices import Slices
from prrmse.learning.device import choose_device
from prrmse.nets.build import seeded_network
from prrmse.tables.markdown import markdown_table

SIZE = 128
CLASSES = 4
NETS: dict[str, dict[str, Any]] = {"unet": {"width": 12}, "pspnet": {"width": 32, "head_width": 256}}
PAPER: dict[str, dict[str, Any]] = {"unet": {"width": 64}, "pspnet": {"width": 64, "head_width": 1024}}


def noise(slices: int, size: int = SIZE) -> Slices:
    """Slices of noise, twenty a patient: speed does not depend on what they show."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal((slices, size, size)).astype(np.float32)
    label = rng.integers(0, CLASSES, image.shape).astype(np.uint8)
    patient = [f"p{i // 20:03d}" for i in range(slices)]
    index = pd.DataFrame({"patient": patient, "frame": "1", "slice": range(slices), "split": "val"})
    meta = {"dataset": "noise", "classes": {"1": "a", "2": "b", "3": "c"}, "spacing_mm": 1.0}
    return Slices(image, label, index, meta)


def noise_patches(number: int, shape: tuple[int, ...]) -> Slices:
    """3D patches of noise, of one patient."""
    flat = noise(number * shape[0], shape[1])
    index = flat.index.iloc[:number].assign(patient="p000")
    image, label = (array.reshape(number, *shape) for array in (flat.image, flat.label))
    return Slices(image[:, None], label, index, flat.meta)


def pair(net: str, arguments: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Target and source, untrained; BN tensors too are drawn, so that no swap is a swap of equals."""
    made = [seeded_network(net, arguments, model) for model in ("target", "source")]
    return disturbed(made[0], 0), disturbed(made[1], 1)


def disturbed(network: nn.Module, seed: int) -> nn.Module:
    """The network with a little added to every tensor."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * (0.1 if tensor.ndim == 1 else 0.01))
    return network.eval()


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The shortest of some runs: what the machine can do when nothing else runs on it."""
    times = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - start)
    return min(times)


@contextlib.contextmanager
def torch_as_it_comes() -> Iterator[None]:
    """For baselines: without the deterministic mode, which is ours and can be slower, and with what torch allows."""
    backend = torch.backends.cudnn
    before = backend.benchmark, backend.allow_tf32
    torch.use_deterministic_algorithms(False)
    backend.benchmark = backend.allow_tf32 = True
    try:
        yield
    finally:
        backend.benchmark, backend.allow_tf32 = before
        torch.use_deterministic_algorithms(True, warn_only=True)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine() -> str:
    """One line about processor, threads, torch."""
    device = choose_device("auto")
    gpu = f", {torch.cuda.get_device_name()}" if device.type == "cuda" else ""
    return f"{processor()}, {torch.get_num_threads()} threads{gpu}, {platform.system()}, torch {torch.__version__}"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as a Markdown table."""
    return markdown_table(pd.DataFrame(rows))
