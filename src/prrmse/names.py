"""Names that the whole package shares: kinds of parameters, controls, columns of tables, ids of base models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

CONV_KINDS = {"W": "weight", "B": "bias"}
BN_KINDS = {"RM": "running_mean", "RV": "running_var", "RW": "weight", "RB": "bias"}
KINDS = (*CONV_KINDS, *BN_KINDS)
KIND_NAMES = {
    "W": "convolution weight (W)",
    "B": "convolution bias (B)",
    "RM": "running mean (RM)",
    "RV": "running variance (RV)",
    "RW": "normalisation weight (RW)",
    "RB": "normalisation bias (RB)",
}

# Sources of which the answer is known (`prrmse.experiments.control`), in the order of tables; then one noise-SOURCE
# per source.
CONTROLS = ("self", "aligned", "seed", "permuted", "rescaled", "initialisation", "random", "shuffled")

# Columns that name a (kind, layer) pair in a table, and a sweep.
PAIR_COLUMNS = ["kind", "layer", "module", "final", "scalars"]
GROUP = ["net", "target", "source"]


class Layer(NamedTuple):
    """One (kind, layer) pair: one tensor that can be reused."""

    kind: str
    layer: int
    module: str
    tensor: str
    scalars: int
    final: bool

    @property
    def pair(self) -> tuple[str, int]:
        return self.kind, self.layer


def split_model(model: str) -> tuple[str, str]:
    """(data set, task) of a base model's id."""
    dataset, task = model.rsplit("-", 1)
    return dataset, task


def models(datasets: Iterable[str], tasks: Iterable[str]) -> list[str]:
    """Ids of all base models: ``{dataset}-{task}``."""
    tasks = list(tasks)
    return [f"{dataset}-{task}" for dataset in datasets for task in tasks]


# How far a target goes towards a source, in percent of the way; the last is the swap.
STEPS = (25, 50, 75, 100)

# How base models of a network are initialised (`prrmse.nets.initialisation`), and the other way.
OTHER_INIT = {"shared": "independent", "independent": "shared"}

# Where a training may start, besides from a source: random kernels, or the network's own pretrained weights.
SCRATCH, PRETRAINED = "scratch", "pretrained"
OWN_STARTS = (PRETRAINED, SCRATCH)
# The smallest gain in Dice that is worth the trouble of a source.
MARGIN = 0.01

# Runs of successive modules of which one at a time may be trained.
BLOCKS = ("early", "middle", "late")
# How a source may be reused in a search for the best start (`prrmse.experiments.halving`), beside ``firstN``; and what
# is tried where no plan is named.
PLANS = ("finetune", "half", "head", "probe", *BLOCKS)
USUAL_PLANS = PLANS[:3]
# How the study trains, beside all further, where all of a source is reused; and what tables call it.
STUDY_PLANS = {
    "freeze": "head only",
    "probe": "head first",
    **{f"block{i}": f"{name} block only" for i, name in enumerate(BLOCKS)},
    "rgn": "rates by relative gradient norm",
}
