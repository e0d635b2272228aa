"""A training step against the plain torch loop and against MONAI's recommended fast pipeline."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from common import CLASSES, NETS, SIZE, noise, seconds, table, torch_as_it_comes
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from prrmse.data.slices import Slices
from prrmse.learning.device import autocast, choose_device, set_up_process
from prrmse.learning.train import train
from prrmse.nets.build import seeded_network
from prrmse.settings import Compute, Training

BATCH, SLICES = 8, 64


class Pictures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """As one would write it: one slice, flipped at random."""

    def __init__(self, data: Slices) -> None:
        self.data = data
        self.transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])

    def __len__(self) -> int:
        return len(self.data.image)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = tv_tensors.Image(torch.from_numpy(self.data.image[i])[None])
        label = tv_tensors.Mask(torch.from_numpy(self.data.label[i]).long())
        shown: tuple[torch.Tensor, torch.Tensor] = self.transform(image, label)
        return shown


def plain(
    net: str, arguments: dict[str, Any], data: Slices, steps: int, batch: int, dtype: torch.dtype = torch.float32
) -> None:
    """A DataLoader with workers, torchvision's transforms, cross-entropy."""
    device = choose_device("auto")
    network = seeded_network(net, arguments, "start").to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    loader = DataLoader(Pictures(data), batch, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True)
    with torch_as_it_comes():
        _loop(network, optimiser, loader, steps, device, dtype, lambda batch: batch)


def monai(net: str, arguments: dict[str, Any], data: Slices, steps: int, batch: int) -> None:
    """CacheDataset, ThreadDataLoader, dictionary transforms, AMP, as in MONAI's guide to fast training."""
    from monai.data import CacheDataset, ThreadDataLoader
    from monai.transforms import Compose, EnsureTyped, RandFlipd

    device = choose_device("auto")
    network = seeded_network(net, arguments, "start").to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    keys = ["image", "label"]
    items = [{"image": i[None], "label": t[None]} for i, t in zip(data.image, data.label, strict=True)]
    transform = Compose([EnsureTyped(keys, device=device), *(RandFlipd(keys, 0.5, axis) for axis in (0, 1))])
    dataset = CacheDataset(items, transform, progress=False)
    loader = ThreadDataLoader(dataset, batch_size=batch, shuffle=True, num_workers=0)
    with torch_as_it_comes():
        _loop(
            *(network, optimiser, loader, steps, device, torch.bfloat16),
            lambda b: (b["image"].as_tensor(), b["label"].as_tensor()[:, 0]),
        )


def _loop(
    network: Any, optimiser: Any, loader: Any, steps: int, device: torch.device, dtype: torch.dtype, unpack: Any
) -> None:
    done = 0
    while done < steps:
        for batch in loader:
            image, label = unpack(batch)
            with autocast(device, dtype):  # around each step: it keeps the weights that it has cast until it ends
                output = network(image.to(device))
            loss = F.cross_entropy(output.float(), label.to(device).long())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
            if done == steps:
                return


def ours(
    net: str,
    arguments: dict[str, Any],
    data: Slices,
    steps: int,
    batch: int,
    precision: Literal["auto", "float32"] = "auto",
    threads: int | None = None,
) -> None:
    """The project's own training, with its augmentation, which does more than flips."""
    threads = threads or torch.get_num_threads()
    settings = Training(steps=steps, batch_size=batch, learning_rate=1e-3, loss="ce", augment=True)
    compute = Compute(precision=precision, threads=threads, resume_seconds=3600)
    train(seeded_network(net, arguments, "start"), data, "seg", settings, 0, compute)


def against_others(steps: int, nets: dict[str, dict[str, Any]] = NETS, batch: int = BATCH) -> str:
    """Milliseconds of a step: the time of 2n steps less that of n, so that what happens once does not count."""
    data = noise(SLICES)
    rows: list[dict[str, object]] = []
    ways: dict[str, Callable[..., None]] = {
        "ours": ours,
        "ours, float32": partial(ours, precision="float32"),
        "plain torch": plain,
        **({"plain torch, bfloat16": partial(plain, dtype=torch.bfloat16)} if torch.cuda.is_available() else {}),
        "MONAI": monai,
    }
    if importlib.util.find_spec("monai") is None:
        del ways["MONAI"]
    for net, arguments in nets.items():
        took = {name: step_and_start(partial(way, net, arguments, data), steps, batch)[0] for name, way in ways.items()}
        row: dict[str, object] = {"network": f"{net} {arguments}"}
        row |= {f"{name}, ms": f"{1000 * s:.{1 if s < 0.02 else 0}f}" for name, s in took.items()}
        for name in list(ways)[2:]:
            row[f"ratio to {name}"] = f"{took[name] / took['ours']:.2f}"
        rows.append(row)
    return f"\n### A training step, {batch} slices of {SIZE} x {SIZE}, {CLASSES} classes\n\n" + table(rows)


def step_and_start(way: Callable[[int, int], None], steps: int, batch: int) -> tuple[float, float]:
    """Seconds of one step, and of what happens once, of a way to train for so many steps."""
    way(2, batch)
    once, twice = (seconds(partial(way, n, batch), 2) for n in (steps, 2 * steps))
    return (twice - once) / steps, 2 * once - twice


def side_by_side(steps: int, nets: dict[str, dict[str, Any]] = NETS) -> str:
    """Several trainings on one machine at once against one after the other, which has all of it to itself."""
    on_gpu = choose_device("auto").type == "cuda"
    cores = os.cpu_count() or 1
    rows: list[dict[str, object]] = []
    for net in nets:
        took = {}
        for jobs in (1, 2, 4) if on_gpu else (1, cores):
            threads = 1 if on_gpu else cores // jobs
            took[jobs] = _at_once(net, nets[net], steps, jobs, threads)
            rows.append({"network": f"{net} {nets[net]}", "at once": jobs, "threads each": threads,
                         "a step of one, ms": f"{1000 * took[jobs] / steps:.1f}",
                         "steps a second, all": f"{jobs * steps / took[jobs]:.1f}",
                         "ratio to one after the other": f"{jobs * took[1] / took[jobs]:.2f}"})  # fmt: skip
    return f"\n### Trainings side by side, {BATCH} slices of {SIZE} x {SIZE} a step\n\n" + table(rows)


def _at_once(net: str, arguments: dict[str, Any], steps: int, jobs: int, threads: int) -> float:
    """Seconds from the start of the first to the end of the last of some trainings, each a process that is warm."""
    context = multiprocessing.get_context("spawn")
    ready, times = context.Barrier(jobs), context.Queue()
    processes = [context.Process(target=_one, args=(net, arguments, steps, threads, ready, times)) for _ in range(jobs)]
    for process in processes:
        process.start()
    found = [times.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return float(max(end for _, end in found) - min(start for start, _ in found))


def _one(net: str, arguments: dict[str, Any], steps: int, threads: int, ready: Any, times: Any) -> None:
    data = noise(SLICES)
    set_up_process("auto", threads)
    ours(net, arguments, data, 5, BATCH, threads=threads)
    ready.wait()
    start = time.perf_counter()  # one clock for all processes of a machine
    ours(net, arguments, data, steps, BATCH, threads=threads)
    times.put((start, time.perf_counter()))
