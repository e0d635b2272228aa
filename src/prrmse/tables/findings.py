"""What holds of the paper's reasoning once controls, start and sample are accounted for (ours).

Each statement is a step of the paper's argument or of what practice takes from it; each answer is computed from one
run, by the rule in its function's docstring. Too few observations give ``undecided``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED, Answer
from prrmse.tables.ranking import SCORES, START

Tables = Mapping[str, pd.DataFrame]


def findings(tables: Tables, tolerance: float) -> pd.DataFrame:
    """One row per statement: statement, answer, statistic.

    Args:
        tables: controls, relative, joint, effects, ranking, gain, layers by name.
        tolerance: of the verdict.
    """
    rows = [(text, *answer_of(tables, tolerance)) for text, answer_of in STATEMENTS]
    return pd.DataFrame(rows, columns=["statement", "answer", "statistic"])


def swap_sees_features(tables: Tables, tolerance: float) -> Answer:
    """Fails if kernels of the permuted twin, which computes the same, cost more than the tolerance in every network."""
    drop = tables["controls"].set_index(["control", "net"])["drop_kernels"]
    twin, random = drop["permuted"], drop["random"]
    text = "; ".join(f"{net}: permuted twin {twin[net]:.2f}, random kernels {random[net]:.2f}" for net in twin.index)
    return Answer(_all(twin <= tolerance), f"mean loss of Dice per kernel, {text}")


def unchanged_means_nothing_lost(tables: Tables, tolerance: float) -> Answer:
    """Fails if the target's own kernels, of its second seed, cost more than the tolerance on average."""
    drop = tables["controls"].set_index(["control", "net"])["drop_kernels"]
    if "seed" not in drop.index:
        return Answer(UNDECIDED, "needs two seeds")
    text = "; ".join(f"{net} {value:.2f}" for net, value in drop["seed"].items())
    return Answer(_all(drop["seed"] <= tolerance), f"mean loss of Dice per kernel from the target's other seed: {text}")


def short_connection(tables: Tables, _: float) -> Answer:
    """The network's effect on normalised reuse at equal start: holds above 0 by its interval, fails below."""
    return _effect(tables, "network: pspnet - unet")


def common_ancestor(tables: Tables, _: float) -> Answer:
    """The start's effect on normalised reuse, mean over networks: holds above 0 by its interval, fails below."""
    return _effect(tables, "start: shared - independent")


def alone_means_together(tables: Tables, tolerance: float) -> Answer:
    """Pairs that are harmless alone, swapped together: the last cumulative swap of each (net, source) within tolerance.

    Needs at least one kernel that is harmless with what belongs to it.
    """
    joint = tables["joint"]
    ends = joint[joint["variant"] == "cumulative"].groupby(["net", "source"], sort=False).last()["drop"]
    alone = joint[joint["variant"] == "joint"].groupby(["net", "source"], sort=False)["drop"]
    share = alone.apply(lambda drop: (drop <= tolerance).mean())
    if share.max() == 0:
        return Answer(UNDECIDED, "no layer is harmless alone")
    text = f"{share.mean():.0%} of layers harmless alone; all layers together lose {ends.min():.2f} to {ends.max():.2f}"
    return Answer(_all(ends <= tolerance), f"{text} (n = {len(ends)} networks x sources)")


def statistics_explain(tables: Tables, _: float) -> Answer:
    """Loss of a kernel alone less that of the kernel with statistics estimated again; holds if that is above 0 for all.

    The loss that estimating again brings by itself is taken off.
    """
    joint = tables["joint"].set_index("variant")
    keys = ["net", "source", "layer"]
    alone = joint.loc["alone"].set_index(keys)["drop"]
    again = joint.loc["reestimated"]
    by_itself = again[again["layer"] == 0].set_index(["net", "source"])["drop"]
    again = again[again["layer"] > 0].set_index(keys)["drop"]
    mended = (alone - (again - by_itself)).groupby(level=["net", "source"]).mean()
    text = f"{alone.mean():.3f} alone, {mended.mean():.3f} of it mended (n = {len(mended)} networks x sources)"
    return Answer(HOLDS if (mended > 0).all() else FAILS if (mended <= 0).all() else UNDECIDED, text)


def distance_tells_loss(tables: Tables, _: float) -> Answer:
    """Spearman over kernels of raw RMSE and loss: holds if above 0 by its interval in every network, fails if in none.

    Beside it the loss from a random kernel in the same layer, which knows no source.
    """
    layers = tables["layers"].set_index(["measure", "net"])
    rmse, random = layers.loc["rmse"], layers.loc["drop_random"]
    text = "; ".join(
        f"{net}: RMSE {rmse.loc[net, 'rho']:.2f} ({rmse.loc[net, 'rho_low']:.2f} to {rmse.loc[net, 'rho_high']:.2f}),"
        f" random kernel {random.loc[net, 'rho']:.2f}"
        for net in rmse.index
    )
    if rmse["rho_low"].isna().any():
        return Answer(UNDECIDED, f"{text}; needs three sources")
    above = rmse["rho_low"] > 0
    return Answer(HOLDS if above.all() else FAILS if not above.any() else UNDECIDED, text)


def closest_gains_most(tables: Tables, _: float) -> Answer:
    """Weighted Kendall tau of RMSE with the gain of fine-tuning: by its interval, in every network."""
    ranking = tables["ranking"]
    rows = ranking[(ranking["score"] == "rmse") & (ranking["arm"] == "finetune")]
    text = "; ".join(
        f"{r['net']}: tau {r['tau']:.2f} ({r['tau_low']:.2f} to {r['tau_high']:.2f}), "
        f"n = {r['n_sources']} sources of {r['n_models']} models"
        for _, r in rows.iterrows()
    )
    if rows["tau_low"].isna().any():
        return Answer(UNDECIDED, f"{text}; needs more sources")
    if (rows["tau_low"] > 0).all():
        return Answer(HOLDS, text)
    return Answer(FAILS if (rows["tau_high"] < 0).all() else UNDECIDED, text)


def some_score_ranks(tables: Tables, _: float) -> Answer:
    """Holds if a score's interval of tau with the gain of fine-tuning lies above 0 in every network; names the best."""
    ranking = tables["ranking"]
    rows = ranking[(ranking["arm"] == "finetune") & ranking["tau"].notna()]
    if rows.empty:
        return Answer(UNDECIDED, "needs more sources")
    sure = rows[rows["tau_low"] > 0]
    common = [s for s in SCORES if (sure["score"] == s).sum() == rows["net"].nunique()]
    best = rows.sort_values("tau").iloc[-1]
    text = (
        f"{len(common)} of {rows['score'].nunique()} scores have an interval above 0; the largest tau is "
        f"{best['tau']:.2f} ({SCORES[best['score']][1]}); with so many scores some stand out by chance"
    )
    return Answer(HOLDS if common else UNDECIDED, text)


def reuse_gains(tables: Tables, _: float) -> Answer:
    """Holds if fine-tuning from every source gains by its interval, fails if from none."""
    gain = tables["gain"]
    rows = gain[(gain["arm"] == "finetune") & (gain["source"] != START)]
    up, down = (rows["gain_low"] > 0).sum(), (rows["gain_high"] < 0).sum()
    text = (
        f"of {len(rows)} sources {up} gain and {down} lose by their intervals; mean {rows['gain'].mean():+.3f} Dice, "
        f"{rows['n_runs'].max()} runs each, {rows['n_patients'].max()} patients"
    )
    return Answer(HOLDS if up == len(rows) else FAILS if up == 0 else UNDECIDED, text)


def _effect(tables: Tables, effect: str) -> Answer:
    effects = tables["effects"][tables["effects"]["effect"] == effect].set_index("measure")
    if effects.empty:
        return Answer(UNDECIDED, "needs UNet and PSPNet in the run")
    own, raw = (effects[["value", "low", "high"]].to_dict("index")[measure] for measure in ("reuse", "drop"))
    text = (
        f"normalised reuse {own['value']:+.2f} ({own['low']:+.2f} to {own['high']:+.2f}); loss of Dice "
        f"{raw['value']:+.2f} ({raw['low']:+.2f} to {raw['high']:+.2f}); {effects['n_patients'].max()} patients"
    )
    return Answer(HOLDS if own["low"] > 0 else FAILS if own["high"] < 0 else UNDECIDED, text)


def _all(each: pd.Series) -> str:
    return HOLDS if np.all(each) else FAILS if not np.any(each) else UNDECIDED


STATEMENTS: list[tuple[str, Callable[[Tables, float], Answer]]] = [
    ("A kernel that computes the same survives the swap", swap_sees_features),
    ("The target's own kernels, learnt again with another seed, survive the swap", unchanged_means_nothing_lost),
    ("The short connection makes a network reusable (PSPNet against UNet at equal start)", short_connection),
    ("The common start makes networks reusable (shared against independent)", common_ancestor),
    ("What fits alone fits together", alone_means_together),
    ("Part of the loss is the BN's stale statistics, not the kernel", statistics_explain),
    ("The RMSE of a layer tells what swapping its kernel costs", distance_tells_loss),
    ("Fine-tuning from a source gains over the target's own start", reuse_gains),
    ("The source with the smallest RMSE gains most", closest_gains_most),
    ("Some score ranks the sources by their gain", some_score_ranks),
]
