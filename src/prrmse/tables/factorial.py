"""Architecture or initialisation? A factorial design: {networks} x {shared, independent initialisation} (ours).

The paper compares a PSPNet whose models were all initialised from ImageNet with a UNet whose models, apparently, were
not. Here both networks are swept under both initialisations, and each drop is normalised by that of a random kernel in
the same layer: a network that tolerates any replacement is not reusable in the sense of the question.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from prrmse.tables.bootstrap import interval, resampled_means

FloatArray = npt.NDArray[np.float64]

SIGN = {"shared": 1, "independent": -1}
INITS = tuple(SIGN)


def kernel_drops(rows: pd.DataFrame) -> pd.DataFrame:
    """Drop in Dice by (net, init, source, patient): mean over kernels (final left out) and seeds.

    Args:
        rows: net, init, source, seed, kind, final, patient, dice, baseline of sweeps.
    """
    chosen = rows[(rows["kind"] == "W") & ~rows["final"].astype(bool)]
    chosen = chosen.assign(drop=chosen["baseline"] - chosen["dice"])
    return chosen.groupby(["net", "init", "source", "patient"], sort=False)["drop"].mean().reset_index()


def factorial_table(drops: pd.DataFrame, random_drops: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """Each cell's drop, that of a random kernel, and the normalised reuse.

    Args:
        drops: of `kernel_drops`, of real sources.
        random_drops: the same of random kernels.
        settings: level, resamples.

    Returns:
        One row per (net, init, source; ``all`` is the mean over sources): drop, drop_random, reuse
        (1 - drop / drop_random) with reuse_low and reuse_high over patients, n_patients.
    """
    found = []
    pooled = drops.groupby(["net", "init", "patient"], sort=False)["drop"].mean().reset_index().assign(source="all")
    for (net, init, source), own in pd.concat([drops, pooled]).groupby(["net", "init", "source"], sort=False):
        random = random_drops[(random_drops["net"] == net) & (random_drops["init"] == init)]
        both = own.merge(random[["patient", "drop"]], on="patient", suffixes=("", "_random"))
        resampled = resampled_means(both[["drop", "drop_random"]].to_numpy().T, settings["resamples"], "factorial")
        low, high = interval(1 - resampled[0] / resampled[1], settings["level"])
        mean = both[["drop", "drop_random"]].mean()
        found.append({
            "net": net, "init": init, "source": source, "drop": mean["drop"], "drop_random": mean["drop_random"],
            "reuse": 1 - mean["drop"] / mean["drop_random"], "reuse_low": low, "reuse_high": high,
            "n_patients": len(both),
        })  # fmt: skip
    return pd.DataFrame(found)


def effects_table(drops: pd.DataFrame, random_drops: pd.DataFrame, settings: dict[str, Any]) -> pd.DataFrame:
    """What initialisation and architecture contribute, to the drop in Dice and to the normalised reuse.

    ``start``: shared minus independent initialisation, mean over networks. ``network A - B``: mean over
    initialisations. ``as published``: the second network with a shared initialisation minus the first with an
    independent one, which is what the paper compares.

    Args:
        drops, random_drops, settings: as for `factorial_table`.

    Returns:
        One row per (effect, measure): value, low, high (bootstrap over patients, the same in all cells), n_patients.
    """
    nets = list(dict.fromkeys(drops["net"]))
    real = drops.pivot_table(index=["net", "init"], columns="patient", values="drop", sort=False)
    random = random_drops.pivot_table(index=["net", "init"], columns="patient", values="drop", sort=False)
    cells = [(net, init) for net in nets for init in INITS]
    stacked = np.stack([real.loc[cells].to_numpy(), random.loc[cells, real.columns].to_numpy()])  # [2, cells, P]
    contrasts = {"start: shared - independent": {(net, init): SIGN[init] / len(nets) for net, init in cells}}
    for b, a in itertools.combinations(nets, 2):
        halves = {(a, init): 0.5 for init in INITS} | {(b, init): -0.5 for init in INITS}
        contrasts[f"network: {a} - {b}"] = halves
        contrasts[f"as published: {a} shared - {b} independent"] = {(a, "shared"): 1, (b, "independent"): -1}
    resampled = resampled_means(stacked, settings["resamples"], "factorial")
    means = stacked.mean(-1, keepdims=True)
    found = []
    for effect, weights in contrasts.items():
        weight = np.array([weights.get(cell, 0.0) for cell in cells])
        for measure, of in (("drop", _drop), ("reuse", _reuse)):
            low, high = interval(weight @ of(resampled), settings["level"])
            value = float((weight @ of(means))[0])
            found.append({"effect": effect, "measure": measure, "value": value, "low": low, "high": high})
    return pd.DataFrame(found).assign(n_patients=stacked.shape[-1])


def _drop(stacked: FloatArray) -> FloatArray:
    """Drops of the sources, from those of sources and of random kernels ``[2, cells, P]``."""
    drops: FloatArray = stacked[0]
    return drops


def _reuse(stacked: FloatArray) -> FloatArray:
    """Normalised reuse: 1 - drop / drop of random kernels."""
    reuse: FloatArray = 1 - stacked[0] / stacked[1]
    return reuse
