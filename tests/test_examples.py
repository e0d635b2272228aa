"""Example segmentations: the right patients, and what the network makes of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import initialise

from prrmse.data.slices import save_slices
from prrmse.experiments.examples import chosen_patients, examples
from prrmse.figures.examples import draw_examples
from prrmse.figures.style import Drawing
from prrmse.nets.checkpoint import save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.settings import UNet


def dice_of(**patients):
    rows = [(patient, name, dice) for patient, dice in patients.items() for name in ("RV", "mean")]
    return pd.DataFrame(rows, columns=["patient", "class", "dice"])


@pytest.mark.parametrize(
    ("patients", "expected"),
    [
        (
            {"a": 0.2, "b": 0.9, "c": np.nan, "d": 0.5, "e": 0.4},
            [("best", "b", 0.9), ("median", "e", 0.4), ("worst", "a", 0.2)],
        ),
        ({"a": 0.2, "b": 0.9}, [("best", "b", 0.9), ("worst", "a", 0.2)]),
        ({"a": 0.2}, [("best", "a", 0.2)]),
        ({}, []),
    ],
)
def test_the_best_the_median_and_the_worst_patient_are_shown_once_each(patients, expected):
    assert chosen_patients(dice_of(**patients)) == expected


def test_a_prediction_is_what_the_network_makes_of_the_slice_with_the_largest_structures(slices, tmp_path):
    torch.manual_seed(0)
    network, other = (initialise("unet", {"width": 4}, "shared", "none", "squares-seg", 0).eval() for _ in range(2))
    for parameter in (*network.parameters(), *other.parameters()):
        torch.nn.init.normal_(parameter)  # an initialisation predicts one class everywhere
    header = {"net": "unet", "arguments": {"in_channels": 1, "out_channels": 4, "width": 4}}
    save_checkpoint(network, tmp_path / "net.safetensors", header)
    smaller = slices.take(np.arange(len(slices.label)))
    first, second, *_ = np.flatnonzero(slices.index["patient"] == "patient003")
    smaller.label = slices.label.copy()
    smaller.label[first, :16] = 0
    save_slices(smaller, tmp_path / "data.npz")
    save_checkpoint(other, tmp_path / "other.safetensors", header)
    pairs = [(x.kind, x.layer, x.final, 0.0, True) for x in inventory(network)]
    verdict = pd.DataFrame(pairs, columns=["kind", "layer", "final", "drop", "reusable"])
    verdict.loc[verdict["final"], "drop"] = 0.9
    verdict.loc[(verdict["kind"] == "W") & (verdict["layer"] == 3), ["drop", "reusable"]] = 0.5, False
    files = (tmp_path / f"{name}" for name in ("net.safetensors", "other.safetensors", "data.npz"))
    found, classes = examples(*files, dice_of(patient002=0.25, patient003=0.75), verdict, UNet())
    assert [example.title for example in found] == ["best: patient003, Dice 0.75", "worst: patient002, Dice 0.25"]
    assert np.array_equal(found[0].image, slices.image[second])
    assert np.array_equal(found[0].label, slices.label[second])
    own, theirs = ({name: tensor.clone() for name, tensor in net.state_dict().items()} for net in (network, other))
    kept = {"outc.weight", "outc.bias"}
    kernel = next(x.tensor for x in inventory(network) if x.pair == ("W", 3))
    states = {
        "prediction": own,
        "W 3 taken": {**own, kernel: theirs[kernel]},
        "107 reusable taken": {n: x if n in {*kept, kernel} else theirs[n] for n, x in own.items()},
    }
    assert list(found[0].predictions) == list(states)
    for name, state in states.items():
        network.load_state_dict(state)
        with torch.no_grad():
            expected = network(torch.from_numpy(slices.image[second])[None, None]).argmax(1)[0]
        assert np.array_equal(found[0].predictions[name], expected), name
    assert len({prediction.tobytes() for prediction in found[0].predictions.values()}) == 3
    draw_examples(found, classes, "unet", "other-seg", Drawing(), tmp_path)
    for ending in ("svg", "png"):
        assert (tmp_path / f"examples_unet.{ending}").stat().st_size > 5000
