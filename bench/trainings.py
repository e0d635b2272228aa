"""A training step against the plain torch loop and against MONAI's recommended fast pipeline."""

from __future__ import annotations

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
from prrmse.learning.device import choose_device, set_up_process
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


def plain(net: str, data: Slices, steps: int) -> None:
    """float32, a DataLoader with workers, torchvision's transforms, cross-entropy."""
    device = choose_device("auto")
    network = seeded_network(net, NETS[net], "start").to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    loader = DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True)
    with torch_as_it_comes():
        _loop(network, optimiser, loader, steps, device, lambda batch: batch)


def monai(net: str, data: Slices, steps: int) -> None:
    """CacheDataset, ThreadDataLoader, dictionary transforms, AMP, as in MONAI's guide to fast training."""
    from monai.data import CacheDataset, ThreadDataLoader
    from monai.transforms import Compose, EnsureTyped, RandFlipd

    device = choose_device("auto")
    network = seeded_network(net, NETS[net], "start").to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    keys = ["image", "label"]
    items = [{"image": i[None], "label": t[None]} for i, t in zip(data.image, data.label, strict=True)]
    transform = Compose([EnsureTyped(keys, device=device), *(RandFlipd(keys, 0.5, axis) for axis in (0, 1))])
    dataset = CacheDataset(items, transform, progress=False)
    loader = ThreadDataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=0)
    with torch_as_it_comes(), torch.autocast(device.type, torch.bfloat16):
        _loop(
            network, optimiser, loader, steps, device, lambda b: (b["image"].as_tensor(), b["label"].as_tensor()[:, 0])
        )


def _loop(network: Any, optimiser: Any, loader: Any, steps: int, device: torch.device, unpack: Any) -> None:
    done = 0
    while done < steps:
        for batch in loader:
            image, label = unpack(batch)
            loss = F.cross_entropy(network(image.to(device)).float(), label.to(device).long())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            done += 1
            if done == steps:
                return


def ours(
    net: str, data: Slices, steps: int, precision: Literal["auto", "float32"] = "auto", threads: int | None = None
) -> None:
    """The project's own training, with its augmentation, which does more than flips."""
    threads = threads or torch.get_num_threads()
    settings = Training(steps=steps, batch_size=BATCH, learning_rate=1e-3, loss="ce", augment=True)
    compute = Compute(precision=precision, threads=threads, resume_seconds=3600)
    train(seeded_network(net, NETS[net], "start"), data, "seg", settings, 0, compute)


def against_others(steps: int) -> str:
    """Milliseconds of a step: the time of 2n steps less that of n, so that what happens once does not count."""
    data = noise(SLICES)
    rows: list[dict[str, object]] = []
    ways: dict[str, Callable[..., None]] = {
        "ours": ours,
        "ours, float32": partial(ours, precision="float32"),
        "plain torch": plain,
        "MONAI": monai,
    }
    for net in NETS:
        took = {}
        for name, way in ways.items():
            way(net, data, 2)
            once, twice = (seconds(partial(way, net, data, n), 2) for n in (steps, 2 * steps))
            took[name] = 1000 * (twice - once) / steps
        row: dict[str, object] = {"network": f"{net} {NETS[net]}"}
        row |= {f"{name}, ms": f"{ms:.0f}" for name, ms in took.items()}
        for name in ("plain torch", "MONAI"):
            row[f"ratio to {name}"] = f"{took[name] / took['ours']:.2f}"
        rows.append(row)
    return f"\n### A training step, {BATCH} slices of {SIZE} x {SIZE}, {CLASSES} classes\n\n" + table(rows)


def side_by_side(steps: int) -> str:
    """Several trainings on one machine at once against one after the other, which has all of it to itself."""
    on_gpu = choose_device("auto").type == "cuda"
    cores = os.cpu_count() or 1
    rows: list[dict[str, object]] = []
    for net in NETS:
        took = {}
        for jobs in (1, 2, 4) if on_gpu else (1, cores):
            threads = 1 if on_gpu else cores // jobs
            took[jobs] = _at_once(net, steps, jobs, threads)
            rows.append({"network": f"{net} {NETS[net]}", "at once": jobs, "threads each": threads,
                         "a step of one, ms": f"{1000 * took[jobs] / steps:.0f}",
                         "steps a second, all": f"{jobs * steps / took[jobs]:.1f}",
                         "ratio to one after the other": f"{jobs * took[1] / took[jobs]:.2f}"})  # fmt: skip
    return f"\n### Trainings side by side, {BATCH} slices of {SIZE} x {SIZE} a step\n\n" + table(rows)


def _at_once(net: str, steps: int, jobs: int, threads: int) -> float:
    """Seconds from the start of the first to the end of the last of some trainings, each a process that is warm."""
    context = multiprocessing.get_context("spawn")
    ready, times = context.Barrier(jobs), context.Queue()
    processes = [context.Process(target=_one, args=(net, steps, threads, ready, times)) for _ in range(jobs)]
    for process in processes:
        process.start()
    found = [times.get() for _ in processes]
    for process in processes:
        process.join()
    return float(max(end for _, end in found) - min(start for start, _ in found))


def _one(net: str, steps: int, threads: int, ready: Any, times: Any) -> None:
    data = noise(SLICES)
    set_up_process("auto", threads)
    ours(net, data, 5, threads=threads)
    ready.wait()
    start = time.perf_counter()  # one clock for all processes of a machine
    ours(net, data, steps, threads=threads)
    times.put((start, time.perf_counter()))
