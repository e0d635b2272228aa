"""Example segmentations: what a base model makes of the patients on which it does best, middling and worst.

The same slices again after swaps from one source: the single pair that does most harm, and all reusable pairs at once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse.data.slices import IGNORE, load_slices
from prrmse.learning.evaluate import prediction_of, with_channels
from prrmse.nets.checkpoint import load_checkpoint, load_network
from prrmse.nets.layers import State, inventory, swap
from prrmse.settings import Network


class Example(NamedTuple):
    """A slice: which patient it is of, image, truth, and predictions by what was taken from a source ``[H, W]``."""

    title: str
    image: np.ndarray
    label: np.ndarray
    predictions: dict[str, np.ndarray]


def chosen_patients(dice: pd.DataFrame) -> list[tuple[str, str, float]]:
    """(best, median or worst; patient; Dice) by mean foreground Dice, each patient once.

    Args:
        dice: patient, class, dice.
    """
    ranked = (
        dice[dice["class"] == "mean"].dropna(subset="dice").sort_values(["dice", "patient"], ascending=[False, True])
    )
    places = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"} if len(ranked) else {}
    rows = [(name, ranked.iloc[place]) for place, name in sorted(places.items())]
    return [(name, str(row["patient"]), float(row["dice"])) for name, row in rows]


def after_swaps(network: nn.Module, source: State, verdict: pd.DataFrame) -> dict[str, nn.Module]:
    """The network as it is, with the pair whose swap does most harm, and with all reusable pairs at once.

    Args:
        network: the target.
        source: state of the source.
        verdict: of this target and source (`prrmse.tables.verdict.verdict_table`); the final convolution stays.
    """
    body = verdict[~verdict["final"]]
    worst = body.nlargest(1, "drop").iloc[0]
    reusable = set(zip(body["kind"], body["layer"], body["reusable"], strict=True))
    layers = {layer.pair: layer for layer in inventory(network)}
    taken = {
        f"{worst['kind']} {worst['layer']} taken": [layers[worst["kind"], worst["layer"]]],
        f"{body['reusable'].sum()} reusable taken": [x for pair, x in layers.items() if (*pair, True) in reusable],
    }
    found = {"prediction": network}
    for name, chosen in taken.items():
        found[name] = copy.deepcopy(network)
        found[name].load_state_dict(swap(network.state_dict(), source, chosen))
    return found


@torch.inference_mode()
def examples(
    checkpoint: Path, source: Path, data: Path, dice: pd.DataFrame, verdict: pd.DataFrame, spec: Network
) -> tuple[Sequence[Example], dict[int, str]]:
    """Of each of the chosen patients the slice with the largest structures.

    Args:
        checkpoint: of a segmentation model.
        source: checkpoint of the source.
        data: its processed data set.
        dice: of its validation patients (`chosen_patients`).
        verdict: of the model and the source (`after_swaps`).
        spec: the network.

    Returns:
        The slices, and the names of the structures.
    """
    slices = load_slices(data).split("val")
    network, _ = load_network(checkpoint, spec.factory, trust=spec.trust)
    networks = after_swaps(network, load_checkpoint(source)[0], verdict)
    found = []
    for name, patient, score in chosen_patients(dice):
        own = slices.take((slices.index["patient"] == patient).to_numpy())
        row = int(((own.label > 0) & (own.label != IGNORE)).sum((1, 2)).argmax())
        image = with_channels(torch.from_numpy(own.stacked[[row]]), spec.image_channels)
        predictions = {what: prediction_of(changed(image))[0].numpy() for what, changed in networks.items()}
        found.append(Example(f"{name}: {patient}, Dice {score:.2f}", own.stacked[row, 0], own.label[row], predictions))
    return found, slices.classes
