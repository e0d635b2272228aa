"""Whether what is known of a swap before it is made tells that the pair is reusable (ours)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from prrmse.names import GROUP, PAIR_COLUMNS
from prrmse.seeding import derive_seed
from prrmse.settings import Verdict
from prrmse.tables.bootstrap import interval
from prrmse.tables.inference import weighted_auroc

# What is known: the first-order estimate; the paper's distance, and relative to both tensors; how large the tensor is.
PREDICTORS = ("first_order", "rmse", "rmse_relative", "scalars")
# Kinds of the pairs: all of them, and apart, since kinds alone tell much of a drop.
KINDS_APART = ("all", "W", "other")


def predicted(screens: pd.DataFrame, verdict: pd.DataFrame) -> pd.DataFrame:
    """Verdicts with what was known before: means over seeds of first_order, rmse and rmse_relative.

    Args:
        screens: rows of `prrmse.compare.first_order.screen_table` with net, target and seed.
        verdict: of `prrmse.tables.verdict.verdict_table`.
    """
    keys = [*GROUP, *PAIR_COLUMNS]
    means = screens.groupby(keys, sort=False)[["first_order", "rmse", "rmse_relative"]].mean().reset_index()
    return verdict.merge(means, on=keys, how="inner", sort=False, validate="one_to_one")


def predictors_table(pairs: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """How well each predictor tells pairs that are not reusable from those that are; the final convolution left out.

    ``auroc``, mean over the sources of a network, is the share of comparisons of a pair that is not reusable with one
    that is, in which the predictor is larger: 0.5 for a guess. Its interval is for other pairs: these are drawn anew,
    the same for all sources, which share the target's layers. ``rho``: Spearman's correlation with the drop.

    Args:
        pairs: of `predicted`.
        settings: level, resamples.

    Returns:
        One row per (net, kinds, predictor): auroc, auroc_low, auroc_high, rho, n_sources, n_pairs, reusable (share).
        A source of which all pairs are reusable, or none, has no AUROC and is not among them.
    """
    found = []
    for net, rows in pairs[~pairs["final"]].groupby("net", sort=False):
        for kinds in KINDS_APART:
            chosen = rows if kinds == "all" else rows[(rows["kind"] == "W") == (kinds == "W")]
            position = chosen.groupby(["target", "kind", "layer"], sort=False).ngroup().to_numpy()
            number = int(position.max(initial=-1)) + 1
            rng = np.random.default_rng(derive_seed("screen", net, kinds))
            drawn = rng.multinomial(number, np.full(number, 1 / max(1, number)), settings.resamples)
            weights = np.vstack([np.ones((1, len(chosen))), drawn[:, position]])
            for predictor in PREDICTORS:
                known = np.isfinite(chosen[predictor].to_numpy(float))
                told = _told(chosen[known], predictor, weights[:, known], settings.level)
                counts = {"n_pairs": number, "reusable": chosen["reusable"].mean()}
                found.append({"net": net, "kinds": kinds, "predictor": predictor, **told, **counts})
    return pd.DataFrame(found)


def _told(rows: pd.DataFrame, predictor: str, weights: np.ndarray, level: float) -> dict[str, float]:
    """AUROC with its interval, and rho; ``weights`` ``[1 + R, rows]``, the first of them all 1."""
    aurocs, rhos = [], []
    for places in rows.groupby(["target", "source"], sort=False).indices.values():
        own = rows.iloc[places]
        found = weighted_auroc(own[predictor].to_numpy(float), ~own["reusable"].to_numpy(bool), weights[:, places])
        if np.isfinite(found[0]):
            aurocs.append(found)
            varies = np.ptp(own[predictor]) > 0 and np.ptp(own["drop"]) > 0
            rhos.append(stats.spearmanr(own[predictor], own["drop"]).statistic if varies else np.nan)
    if not aurocs:
        return {**dict.fromkeys(("auroc", "auroc_low", "auroc_high", "rho"), float("nan")), "n_sources": 0}
    means = np.mean(aurocs, axis=0)
    low, high = interval(means[1:], level)
    return {
        "auroc": means[0], "auroc_low": float(low), "auroc_high": float(high), "rho": float(pd.Series(rhos).mean()),
        "n_sources": len(aurocs),
    }  # fmt: skip
