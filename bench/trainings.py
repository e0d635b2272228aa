"""A training step against the plain torch loop and against MONAI's recommended fast pipeline."""

from __future__ import annotations

import os
from typing import Any

import torch
from common import CLASSES, NETS, SIZE, noise, seconds, table
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from prrmse.data.slices import Slices
from prrmse.device import choose_device
from prrmse.nets import initialise
from prrmse.train import train

BATCH, SLICES = 8, 64


class Pictures(Dataset):
    """As one would write it: one slice, flipped at random."""

    def __init__(self, data: Slices) -> None:
        self.data = data
        self.transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()])

    def __len__(self) -> int:
        return len(self.data.image)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = tv_tensors.Image(torch.from_numpy(self.data.image[i])[None])
        label = tv_tensors.Mask(torch.from_numpy(self.data.label[i]).long())
        return self.transform(image, label)


def plain(net: str, data: Slices, steps: int) -> None:
    """float32, a DataLoader with workers, torchvision's transforms, cross-entropy."""
    device = choose_device("auto")
    network = initialise(net, NETS[net], "shared", "none", "a-seg", 0).to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    loader = DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=os.cpu_count() or 1, persistent_workers=True)
    _loop(network, optimiser, loader, steps, device, lambda batch: batch)


def monai(net: str, data: Slices, steps: int) -> None:
    """CacheDataset, ThreadDataLoader, dictionary transforms, AMP, as in MONAI's guide to fast training."""
    from monai.data import CacheDataset, ThreadDataLoader
    from monai.transforms import Compose, EnsureTyped, RandFlipd

    device = choose_device("auto")
    network = initialise(net, NETS[net], "shared", "none", "a-seg", 0).to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    keys = ["image", "label"]
    items = [{"image": i[None], "label": t[None]} for i, t in zip(data.image, data.label, strict=True)]
    transform = Compose([EnsureTyped(keys, device=device), *(RandFlipd(keys, 0.5, axis) for axis in (0, 1))])
    dataset = CacheDataset(items, transform, progress=False)
    loader = ThreadDataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=0)
    with torch.autocast(device.type, torch.bfloat16):
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


def ours(net: str, data: Slices, steps: int, precision: str = "auto", title: str = "") -> None:
    """The project's own training, with its augmentation, which does more than flips."""
    settings = {"steps": steps, "batch_size": BATCH, "learning_rate": 1e-3, "weight_decay": 0.0}
    settings |= {"loss": "ce", "augment": True}
    compute = {"device": "auto", "precision": precision, "threads": torch.get_num_threads(), "resume_seconds": 3600}
    train(
        initialise(net, NETS[net], "shared", "none", "a-seg", 0), data, "seg", settings, 0, compute, title=title
    )  # fmt: skip


def against_others(steps: int) -> str:
    """Milliseconds of a step: the time of 2n steps less that of n, so that what happens once does not count."""
    data = noise(SLICES)
    rows: list[dict[str, object]] = []
    ways = {"ours": ours, "ours, float32": lambda *a: ours(*a, precision="float32"), "plain torch": plain,
            "MONAI": monai}  # fmt: skip
    for net in NETS:
        took = {}
        for name, way in ways.items():
            way(net, data, 2)
            once, twice = (seconds(lambda n=n: way(net, data, n), 2) for n in (steps, 2 * steps))  # noqa: B023
            took[name] = 1000 * (twice - once) / steps
        row: dict[str, object] = {"network": f"{net} {NETS[net]}"}
        row |= {f"{name}, ms": f"{ms:.0f}" for name, ms in took.items()}
        for name in ("plain torch", "MONAI"):
            row[f"ratio to {name}"] = f"{took[name] / took['ours']:.2f}"
        rows.append(row)
    return f"\n### A training step, {BATCH} slices of {SIZE} x {SIZE}, {CLASSES} classes\n\n" + table(rows)
