"""Auto-RGN (Lee et al. 2023) in plain torch, with none of this project's code: is it worse, or only slower?

`snakemake study` found that rates by relative gradient norms lose against equal ones at equal steps. Here a target of
the study is trained from its source again, with equal rates and with those of Auto-RGN, at several first rates:

    python bench/auto_rgn.py STUDY [TARGET:SOURCE ...]      STUDY: a checkout in which the study's base models are
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

STEPS, BATCH, PATIENTS, CLASSES = 300, 8, 10, 4
BATCHES_OF_RATES = 5
RATES = {"equal": (0.002, 0.006), "Auto-RGN": (0.002, 0.006, 0.02, 0.06)}


def started(source: Path) -> torch.nn.Module:
    """The study's PSPNet with all of the source but its last convolution."""
    torch.manual_seed(0)
    network = smp.PSPNet("tu-tf_efficientnet_lite0", encoder_weights=None, encoder_depth=3, classes=CLASSES)
    taken = {name: value for name, value in load_file(source).items() if not name.startswith("segmentation_head")}
    network.load_state_dict(network.state_dict() | taken)
    assert isinstance(network, torch.nn.Module)
    return network


def dice_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """1 - mean Dice of the foreground's probabilities, over the batch."""
    probability, truth = output.softmax(1)[:, 1:], F.one_hot(label, CLASSES).movedim(-1, 1)[:, 1:]
    both, total = (probability * truth).sum((0, 2, 3)), (probability + truth).sum((0, 2, 3))
    return 1 - ((2 * both + 1) / (total + 1)).mean()


def loss_of(network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and Dice of a batch."""
    output = network(image)
    return F.cross_entropy(output, label) + dice_loss(output, label)


def trained(network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor, rate: float, kind: str) -> float:
    """Train in place by Adam with a cosine schedule; the mean loss of the last tenth of the steps."""
    rng = np.random.default_rng(0)
    batches = [rng.choice(len(image), BATCH, replace=False) for _ in range(STEPS)]
    parameters = dict(network.named_parameters())
    weight = dict.fromkeys(parameters, 1.0)
    if kind == "Auto-RGN":
        found: dict[str, list[float]] = {}
        network.eval()  # gradients at the start, without touching running statistics
        for batch in batches[:BATCHES_OF_RATES]:
            network.zero_grad()
            loss_of(network, image[batch], label[batch]).backward()
            for name, p in parameters.items():
                if p.grad is not None and p.norm() > 0:
                    found.setdefault(name, []).append(float(p.grad.norm() / p.norm()))
        largest = max(map(np.mean, found.values()))
        weight |= {name: float(np.mean(values) / largest) for name, values in found.items()}
    groups = [{"params": [p], "lr": rate * weight[name], "full": rate * weight[name]} for name, p in parameters.items()]
    optimiser = torch.optim.Adam(groups)
    network.train()
    losses = []
    for step, batch in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = group["full"] * (1 + math.cos(math.pi * step / STEPS)) / 2
        optimiser.zero_grad()
        loss = loss_of(network, image[batch], label[batch])
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    return float(np.mean(losses[-STEPS // 10 :]))


@torch.inference_mode()
def dice(network: torch.nn.Module, image: torch.Tensor, label: torch.Tensor, patient: np.ndarray) -> float:
    """Mean over patients of the mean Dice of the classes that they have."""
    network.eval()
    made = torch.cat([network(part).argmax(1) for part in image.split(64)])
    found = []
    for name in np.unique(patient):
        p, t = made[patient == name], label[patient == name]
        present = [c for c in range(1, CLASSES) if (t == c).any()]
        found.append(np.mean([2 * ((p == c) & (t == c)).sum() / ((p == c).sum() + (t == c).sum()) for c in present]))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("pairs", nargs="*", default=["mscmr:emidec-seg", "la2018:rvsc-seg", "acdc:mmsa-seg"])
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for pair in a.pairs:
        target, source = pair.split(":")
        data = np.load(a.study / f"data/processed/{target}.npz")
        split, patient = data["index_split"], data["index_patient"]
        few = np.random.default_rng(0).permutation(np.unique(patient[split == "train"]))[:PATIENTS]
        image = torch.from_numpy(data["image"])[:, None].expand(-1, 3, -1, -1)
        label = torch.from_numpy(data["label"]).long()
        own, test = np.isin(patient, few), split == "test"
        for kind, rates in RATES.items():
            for rate in rates:
                network = started(a.study / f"results/checkpoints/psp/{source}/seed0.safetensors")
                loss = trained(network, image[own], label[own], rate, kind)
                found = dice(network, image[test], label[test], patient[test])
                rows.append({"target": target, "source": source, "rates": kind, "first rate": rate,
                             "last loss": round(loss, 3), "test Dice": round(found, 3)})  # fmt: skip
                print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
