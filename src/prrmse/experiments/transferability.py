"""Everything that can be said of a source before any fine-tuning: scores, distances, and what each costs in time.

All of it is computed on the few training patients of the target that a fine-tuning would see; the validation patients
take no part. What compares with the target model (distances, CKA, swap) has an advantage over the established scores:
that model was trained on all of the target's training patients, as in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse.compare.features import Pixels, features, sample_pixels
from prrmse.compare.scores import cc_fv, cc_fv_code, gbc, gbc_code, gbc_diagonal, h_score, leep, logme
from prrmse.compare.similarity import DISTANCES, LIKENESSES, similarity_table
from prrmse.data.slices import draw_patients, load_slices, some_slices
from prrmse.engine.sweep import sweep
from prrmse.learning.dice import dice
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.names import split_model
from prrmse.nets.checkpoint import load_network
from prrmse.nets.start import starting_point
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, Network

# Scores of the features that the final convolution reads, and of those that the last `DEEPEST` convolutions read.
OF_FEATURES = {"logme": logme, "h_score": h_score, "gbc": gbc, "gbc_diagonal": gbc_diagonal, "gbc_code": gbc_code}
OF_SEVERAL = {"cc_fv": cc_fv, "cc_fv_code": cc_fv_code}
# Slices of the drawn patients that are looked at, and convolutions whose inputs CC-FV sees: the last ones.
SLICES = 128
DEEPEST = 4


class Transferability(NamedTuple):
    """``scores``: one row per score (score, value). ``layers``: one row per kernel. ``seconds``: (score, seconds)."""

    scores: pd.DataFrame
    layers: pd.DataFrame
    seconds: pd.DataFrame


def transferability(
    target: Path,
    source: Path,
    data: Path,
    spec: Network,
    init: str,
    compute: Compute,
    *,
    samples: int,
    seed: int,
    pixels: int,
    engine: str = "fast",
    memory_mb: float = 2000,
) -> Transferability:
    """Score one source for one target.

    Args:
        target, source: checkpoints of the same network.
        data: processed data set of the target.
        spec, init: see `prrmse.nets.start.starting_point`.
        compute: where and in which dtype.
        samples, seed: number of training patients, and the run seed that draws them.
        pixels: sampled for scores and CKA.
        engine, memory_mb: see `prrmse.engine.sweep.sweep`.
    """
    target_network, head = load_network(target, spec.factory)
    source_network, source_head = load_network(source, spec.factory)
    state = {name: tensor.clone() for name, tensor in source_network.state_dict().items()}
    net, model, source_model = head["net"], head["model"], source_head["model"]
    begun = starting_point(net, spec, init, model, head["seed"]).state_dict()
    begun_source = starting_point(net, spec, init, source_model, source_head["seed"]).state_dict()
    drawn = some_slices(draw_patients(load_slices(data), samples, seed), SLICES, model, seed)
    evaluation = Evaluation(drawn, compute, spec.classes, spec.image_channels)
    chosen = sample_pixels(evaluation, pixels, derive_seed(model, "pixels", seed))

    kernels = [layer for layer in reaching(target_network, evaluation.whole.image[:1]) if layer.kind == "W"]
    watch = Watch()
    # An auto-encoder's outputs are no classes.
    has_classes = split_model(source_model)[1] == "seg"
    found = feature_scores(source_network, evaluation, chosen, watch, has_classes=has_classes)
    alike = watch.time(
        "similarity",
        lambda: similarity_table(
            target_network, state, begun, evaluation, chosen, derive_seed(net, source_model, "alignment", head["seed"])
        ),
    )
    before, after = watch.time(
        "swap", lambda: sweep(target_network, state, kernels, evaluation, engine=engine, memory_mb=memory_mb)
    )
    alike["drop"] = [float(np.nanmean(dice(before)[:, 1:] - dice(counts)[:, 1:])) for counts in after]
    body = alike[~alike["final"]]
    found |= {name: body[name].mean() for name in (*DISTANCES, *LIKENESSES)}
    found["swap"] = body["drop"].mean()
    found["travelled"] = float(np.mean([_relative_way(state[k.tensor], begun_source[k.tensor]) for k in kernels]))
    scores = pd.DataFrame({"score": list(found), "value": list(found.values())})
    return Transferability(scores, alike, pd.DataFrame(watch.seconds.items(), columns=["score", "seconds"]))


def feature_scores(
    source: nn.Module, evaluation: Evaluation, pixels: Pixels, watch: Watch, *, has_classes: bool
) -> dict[str, float]:
    """The scores that need the source's features and the target's labels: `OF_FEATURES`, `OF_SEVERAL`, and leep.

    Features are what the final convolution reads; for CC-FV what the last `DEEPEST` convolutions read.

    Args:
        source: the network with the source's parameters.
        evaluation: slices of the target.
        pixels: sampled from them.
        watch: notes the times.
        has_classes: whether the source's outputs are classes, which LEEP needs.
    """
    kernels = [layer for layer in reaching(source, evaluation.whole.image[:1]) if layer.kind == "W"]
    names = [layer.module for layer in kernels]
    final = next((layer.module for layer in kernels if layer.final), names[-1])
    into, _, own = watch.time(
        "features", lambda: features(source, evaluation, pixels, inputs=[*names[-DEEPEST:], final])
    )
    if not all(np.isfinite(values).all() for values in (own, *into.values())):
        return dict.fromkeys((*OF_FEATURES, *OF_SEVERAL), float("nan"))  # a source that computes nothing
    found = {name: watch.time(name, partial(score, into[final], pixels.label)) for name, score in OF_FEATURES.items()}
    several = [into[name] for name in names[-DEEPEST:]]
    found |= {
        name: watch.time(name, partial(score, several, pixels.label, pixels.patient))
        for name, score in OF_SEVERAL.items()
    }
    if has_classes:
        logs = torch.log_softmax(torch.from_numpy(own).double(), 1).numpy()
        found["leep"] = watch.time("leep", lambda: leep(logs, pixels.label))
    return found


def _relative_way(state: torch.Tensor, start: torch.Tensor) -> float:
    """How far a kernel went from its start, relative to its norm there."""
    return float((state - start).norm() / start.norm().clamp_min(1e-30))


class Watch:
    """Seconds that each piece of work took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        """The result of the work, whose time is noted."""
        start = time.perf_counter()
        found = work()
        self.seconds[name] = time.perf_counter() - start
        return found
