"""How much of a source can be reused at once: lists of pairs that the target bears together (ours).

Pairs that are harmless one by one need not be so together. A list grows in some order until the upper end of the
interval of the joint drop over validation patients exceeds the tolerance. Running statistics are pairs of their own and
are reused or not like all others; nothing is re-estimated. Orders:

- ``greedy``: the pair next that costs least beside those that are taken already. To sweep all others for every pair
  would take as many sweeps as there are pairs. So they are swept anew only `ROUNDS` - 1 times: each round takes the
  first half of the pairs that fit in the order of the last sweep, and the last round all of them.
- ``alone``: by the drop of each pair alone.
- ``depth``: from the image on, as the network has its modules.
- ``randomN``: draw N.

How many pairs of an order fit is looked for in two steps: at some lengths about sqrt(n) apart, then at all between the
last that fits and the first that does not. An order so costs about 2 sqrt(n) evaluations, the greedy one
`ROUNDS` times as many and `ROUNDS` - 1 sweeps.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from prrmse.engine.sweep import sweep_changes
from prrmse.engine.table import dice_by_change
from prrmse.learning.dice import Counts
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.learning.target import Target
from prrmse.names import Layer
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.nets.layers import State, fill
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, Network, Verdict
from prrmse.tables.verdict import drops_by_patient, mean_drops

log = logging.getLogger(__name__)

# Of the greedy order, and orders drawn at random.
ROUNDS = 4
DRAWS = 3


def together(
    target: Path,
    source: Path,
    data: Path,
    sweep: pd.DataFrame,
    spec: Network,
    compute: Compute,
    verdict: Verdict,
    *,
    engine: str,
    memory_mb: float,
) -> pd.DataFrame:
    """The longest list of each order that fits.

    Args:
        target, source: checkpoints of the same network.
        data: processed data set of the target, with a test split.
        sweep: of the target by this source (`prrmse.experiments.swap.swap_experiment`).
        spec: the network.
        compute: where and in which dtype.
        verdict: tolerance, level and resamples; the rule is ``upper``, whatever it says.
        engine, memory_mb: see `prrmse.engine.sweep.sweep_changes`.

    Returns:
        One row per order: order, pairs, scalars, share (of the scalars of all pairs but the final convolution's), drop,
        drop_high (on validation patients), drop_test (on test patients, whom no choice has seen), n_test.
    """
    own = Target.load(target, data, spec, compute)
    state, header = load_checkpoint(source)
    identity = own.header["net"], own.header["model"], header["model"]
    chosen_on, reported_on = (
        Bearing(own.network, state, own.on(own.slices.split(split)), verdict, identity, engine, memory_mb)
        for split in ("val", "test")
    )
    layers = [layer for layer in reaching(own.network, chosen_on.evaluation.whole.image[:1]) if not layer.final]
    means = sweep[sweep["class"] == "mean"]
    drop = means.assign(drop=means["baseline"] - means["dice"]).groupby(["kind", "layer"])["drop"].mean()
    alone = sorted(layers, key=lambda layer: float(drop[layer.pair]))
    orders = {"alone": alone, **blind_orders(own.network, layers, identity)}
    log.info("%d orders of %d pairs", 1 + len(orders), len(layers))
    lists = {"greedy": greedy(chosen_on, alone)}
    lists |= {name: order[: chosen_on.longest(order)] for name, order in orders.items()}
    chosen = list(lists.values())
    found = chosen_on.drops(chosen)
    scalars = np.array([sum(layer.scalars for layer in own_list) for own_list in chosen])
    return pd.DataFrame(
        {
            "order": list(lists),
            "pairs": [len(own_list) for own_list in chosen],
            "scalars": scalars,
            "share": scalars / sum(layer.scalars for layer in layers),
            "drop": found["drop"],
            "drop_high": found["drop_high"],
            "drop_test": reported_on.drops(chosen)["drop"],
            "n_test": len(reported_on.evaluation.patients),
        }
    )


@dataclass(frozen=True)
class Bearing:
    """What a target loses on some slices by pairs that it takes from a source.

    Attributes:
        network: the target.
        source: a state of the same network.
        evaluation: the slices.
        verdict: tolerance, level and resamples.
        identity: what the resamples are for.
        engine, memory_mb: see `prrmse.engine.sweep.sweep_changes`.
    """

    network: nn.Module
    source: State
    evaluation: Evaluation
    verdict: Verdict
    identity: tuple[str, ...]
    engine: str
    memory_mb: float

    @cached_property
    def _own(self) -> Counts:
        return self.evaluation.own_counts(self.network)

    def drops(self, lists: Sequence[Sequence[Layer]], taken: Sequence[Layer] = ()) -> pd.DataFrame:
        """drop, drop_high (`mean_drops`) of each list, those ``taken`` with it; at least one list."""
        network = copy.deepcopy(self.network)
        fill(network.state_dict(), {layer.tensor: self.source[layer.tensor] for layer in taken})
        changes = [{layer.tensor: self.source[layer.tensor] for layer in own} for own in lists]
        _, counts = sweep_changes(network, changes, self.evaluation, engine=self.engine, memory_mb=self.memory_mb)
        table = dice_by_change(self._own, counts, [{"list": i} for i in range(len(lists))], self.evaluation)
        drops = drops_by_patient(table[table["class"] == "mean"], ["list"])
        return mean_drops(drops, self.verdict, "together", *self.identity)

    def longest(self, order: Sequence[Layer], taken: Sequence[Layer] = ()) -> int:
        """How many pairs from the first on fit beside those taken, to the resolution of the module's two steps."""
        n = len(order)
        stride = max(math.isqrt(n), 1)
        lengths = [*range(stride, n, stride), n]
        first = self._fitting(order, lengths, taken)
        if first == len(lengths):
            return n
        low = lengths[first - 1] if first else 0
        return low + self._fitting(order, range(low + 1, lengths[first]), taken)

    def _fitting(self, order: Sequence[Layer], lengths: Sequence[int], taken: Sequence[Layer]) -> int:
        """How many of these lengths fit before the first that does not."""
        if not lengths:
            return 0
        fits = self.drops([order[:length] for length in lengths], taken)["drop_high"] <= self.verdict.tolerance
        return int(fits.cumprod().sum())


def greedy(bearing: Bearing, order: Sequence[Layer]) -> list[Layer]:
    """The list of the greedy order; see the module.

    Args:
        bearing: by which pairs are swept.
        order: all pairs, by the drop of each alone.
    """
    taken: list[Layer] = []
    longest: list[Layer] = []  # that was measured; what a turn takes for the next one was not
    left = list(order)
    for turn in range(1, ROUNDS + 1):
        if taken:
            drops = bearing.drops([[layer] for layer in left], taken)["drop"]
            left = [left[i] for i in np.argsort(drops.to_numpy(), kind="stable")]
        fits = bearing.longest(left, taken)
        longest = max(longest, taken + left[:fits] if fits else [], key=len)
        number = fits if fits == len(left) or turn == ROUNDS else math.ceil(fits / 2)
        taken, left = taken + left[:number], left[number:]
        if not number or not left:
            break
    return longest


def blind_orders(network: nn.Module, layers: Sequence[Layer], identity: tuple[str, ...]) -> dict[str, list[Layer]]:
    """The orders that know nothing of the source: ``depth`` and `DRAWS` random ones.

    Args:
        network: whose modules say what is how deep.
        layers: all pairs.
        identity: what the draws are for.
    """
    place = {name: i for i, (name, _) in enumerate(network.named_modules())}
    orders = {"depth": sorted(layers, key=lambda layer: place[layer.module])}
    for draw in range(DRAWS):
        rng = np.random.default_rng(derive_seed("order", *identity, draw))
        orders[f"random{draw}"] = [layers[i] for i in rng.permutation(len(layers))]
    return orders
