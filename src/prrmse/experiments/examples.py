"""Example segmentations: what a base model makes of the patients on which it does best, middling and worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from prrmse.data.slices import IGNORE, load_slices
from prrmse.learning.evaluate import prediction_of, with_channels
from prrmse.nets.checkpoint import load_network
from prrmse.settings import Network


class Example(NamedTuple):
    """A slice: which patient it is of, image, truth and prediction ``[H, W]``."""

    title: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray


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


@torch.inference_mode()
def examples(
    checkpoint: Path, data: Path, dice: pd.DataFrame, spec: Network
) -> tuple[Sequence[Example], dict[int, str]]:
    """Of each of the chosen patients the slice with the largest structures.

    Args:
        checkpoint: of a segmentation model.
        data: its processed data set.
        dice: of its validation patients (`chosen_patients`).
        spec: the network.

    Returns:
        The slices, and the names of the structures.
    """
    slices = load_slices(data).split("val")
    network, _ = load_network(checkpoint, spec.factory, trust=spec.trust)
    found = []
    for name, patient, score in chosen_patients(dice):
        own = slices.take((slices.index["patient"] == patient).to_numpy())
        row = int(((own.label > 0) & (own.label != IGNORE)).sum((1, 2)).argmax())
        image = with_channels(torch.from_numpy(own.stacked[[row]]), spec.image_channels)
        prediction = prediction_of(network(image))[0].numpy()
        found.append(Example(f"{name}: {patient}, Dice {score:.2f}", own.stacked[row, 0], own.label[row], prediction))
    return found, slices.classes
