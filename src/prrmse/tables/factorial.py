"""Architecture or initialisation? A factorial design: {networks} x {shared, independent initialisation} (ours).

The paper compares a PSPNet whose models were all initialised from ImageNet with a UNet whose models, apparently, were
not. Here both networks are swept under both initialisations, and each drop is normalised by that of a random kernel in
the same layer: a network that tolerates any replacement is not reusable in the sense of the question.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from prrmse.settings import Verdict
from prrmse.tables.inference import Values, crossed_frame, crossed_interval, shape_of

SIGN = {"shared": 1, "independent": -1}
INITS = tuple(SIGN)


def kernel_drops(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop in Dice by (net, init, source, seed, patient): mean over kernels (final left out).

    Args:
        rows: net, init, source, seed, kind, final, patient, dice, baseline of sweeps.
    """
    chosen = rows[(rows["kind"] == "W") & ~rows["final"].astype(bool)]
    chosen = chosen.assign(drop=chosen["baseline"] - chosen["dice"])
    return chosen.groupby(["net", "init", "source", "seed", "patient"], sort=False)["drop"].mean().reset_index()


def factorial_table(drops: pd.DataFrame, random_drops: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """Each cell's drop, that of a random kernel, and the normalised reuse.

    Args:
        drops: of `kernel_drops`, of real sources.
        random_drops: the same of random kernels.
        settings: level.

    Returns:
        One row per (net, init, source; ``all`` is the mean over sources): drop, drop_random, reuse
        (1 - drop / drop_random) with reuse_low and reuse_high over seeds and patients (`crossed_interval`), n_seeds,
        n_patients.
    """
    found = []
    keys = ["net", "init", "seed", "patient"]
    pooled = drops.groupby(keys, sort=False)["drop"].mean().reset_index().assign(source="all")
    random = crossed_frame(random_drops, ["net", "init"])
    real = crossed_frame(pd.concat([drops, pooled]), ["net", "init", "source"]).reindex(columns=random.columns)
    cells = pd.concat([drops, pooled])[["net", "init", "source"]].drop_duplicates()
    for net, init, source in cells.itertuples(index=False):
        both = np.stack([real.xs((net, init, source)), random.xs((net, init))]).reshape(2, *shape_of(random))
        reuse = crossed_interval(_reuse, both, settings.level)
        found.append({
            "net": net, "init": init, "source": source, "drop": np.nanmean(both[0]), "drop_random": np.nanmean(both[1]),
            "reuse": reuse.value, "reuse_low": reuse.low, "reuse_high": reuse.high,
            "n_seeds": both.shape[1], "n_patients": both.shape[2],
        })  # fmt: skip
    return pd.DataFrame(found)


def _reuse(values: Values) -> float:
    """1 - drop / drop of a random kernel, of drops ``[2, S, P]``."""
    return 1 - float(np.nanmean(values[0]) / np.nanmean(values[1]))


def effects_table(drops: pd.DataFrame, random_drops: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """What initialisation and architecture contribute, to the drop in Dice and to the normalised reuse.

    ``initialisation``: shared minus independent initialisation, mean over networks. ``network A - B``: mean over
    initialisations. ``as published``: the second network with a shared initialisation minus the first with an
    independent one, which is what the paper compares.

    Args:
        drops, random_drops, settings: as for `factorial_table`.

    Returns:
        One row per (effect, measure): value, low, high (`crossed_interval` over seeds and patients, the same ones in
        all cells), n_seeds, n_patients.
    """
    nets = sorted(drops["net"].unique(), reverse=True)  # UNet before PSPNet, in whatever order they were trained
    cells = [(net, init) for net in nets for init in INITS]
    real, random = (crossed_frame(rows, ["net", "init"]).loc[cells] for rows in (drops, random_drops))
    stacked = np.stack([real.to_numpy(), random.reindex(columns=real.columns).to_numpy()])
    stacked = stacked.reshape(2, len(cells), *shape_of(real))  # [2, cells, S, P]
    contrasts = {"initialisation: shared - independent": {(net, init): SIGN[init] / len(nets) for net, init in cells}}
    for b, a in itertools.combinations(nets, 2):
        halves = {(a, init): 0.5 for init in INITS} | {(b, init): -0.5 for init in INITS}
        contrasts[f"network: {a} - {b}"] = halves
        contrasts[f"as published: {a} shared - {b} independent"] = {(a, "shared"): 1, (b, "independent"): -1}
    found = []
    for effect, weights in contrasts.items():
        weight = np.array([weights.get(cell, 0.0) for cell in cells])
        for measure, of in MEASURES.items():
            value, low, high = crossed_interval(partial(_contrast, weight, of), stacked, settings.level)
            found.append({"effect": effect, "measure": measure, "value": value, "low": low, "high": high})
    return pd.DataFrame(found).assign(n_seeds=stacked.shape[-2], n_patients=stacked.shape[-1])


MEASURES: dict[str, Callable[[Values], Values]] = {"drop": lambda v: v[0], "reuse": lambda v: 1 - v[0] / v[1]}


def _contrast(weight: Values, of: Callable[[Values], Values], values: Values) -> float:
    """Weighted sum over cells of a measure of drops ``[2, cells, S, P]``, real and random."""
    return float(weight @ of(np.nanmean(values, axis=(-2, -1))))
