"""All scores of a source before any fine-tuning: transferability scores, distances, and the seconds that each takes.

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
from prrmse.compare.similarity import DISTANCES, SIMILARITIES, similarity_table
from prrmse.data.slices import draw_patients, some_slices
from prrmse.engine.sweep import sweep
from prrmse.learning.dice import dice
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.learning.target import Target
from prrmse.names import split_model
from prrmse.nets.checkpoint import load_network
from prrmse.nets.initialisation import initialised_network
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
    engine: str,
    memory_mb: float,
) -> Transferability:
    """Score one source for one target.

    Args:
        target, source: checkpoints of the same network.
        data: processed data set of the target.
        spec, init: see `prrmse.nets.initialisation.initialised_network`.
        compute: where and in which dtype.
        samples, seed: number of training patients, and the run seed that draws them.
        pixels: sampled for scores and CKA.
        engine, memory_mb: see `prrmse.engine.sweep.sweep`.
    """
    own = Target.load(target, data, spec, compute)
    source_network, source_header = load_network(source, spec.factory, trust=spec.trust)
    state = {name: tensor.clone() for name, tensor in source_network.state_dict().items()}
    net, model, source_model = own.header["net"], own.header["model"], source_header["model"]
    initial = initialised_network(net, spec, init, model, own.header["seed"]).state_dict()
    source_initial = initialised_network(net, spec, init, source_model, source_header["seed"]).state_dict()
    evaluation = own.on(some_slices(draw_patients(own.slices, samples, seed), SLICES, model, seed))
    chosen = sample_pixels(evaluation, pixels, derive_seed(model, "pixels", seed))

    kernels = [layer for layer in reaching(own.network, evaluation.whole.image[:1]) if layer.kind == "W"]
    watch = Watch()
    # An auto-encoder's outputs are no classes.
    has_classes = split_model(source_model)[1] == "seg"
    found = feature_scores(source_network, evaluation, chosen, watch, has_classes=has_classes)
    order = derive_seed(net, source_model, "alignment", own.header["seed"])
    alike = watch.time("similarity", lambda: similarity_table(own.network, state, initial, evaluation, chosen, order))
    before, after = watch.time(
        "swap", lambda: sweep(own.network, state, kernels, evaluation, engine=engine, memory_mb=memory_mb)
    )
    alike["drop"] = [float(np.nanmean(dice(before)[:, 1:] - dice(counts)[:, 1:])) for counts in after]
    body = alike[~alike["final"]]
    found |= {name: body[name].mean() for name in (*DISTANCES, *SIMILARITIES)}
    found["swap"] = body["drop"].mean()
    distances = [relative_distance(state[k.tensor], source_initial[k.tensor]) for k in kernels]
    found["distance_from_initialisation"] = float(np.mean(distances))
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
        return dict.fromkeys((*OF_FEATURES, *OF_SEVERAL), float("nan"))  # a source with NaN or infinite features
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


def relative_distance(trained: torch.Tensor, initial: torch.Tensor) -> float:
    """Euclidean distance of a kernel from its initialisation, relative to the norm of that."""
    return float((trained - initial).norm() / initial.norm().clamp_min(1e-30))


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
