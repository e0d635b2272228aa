"""What holds of the paper's reasoning once controls, start and sample are accounted for (ours).

Each statement is a step of the paper's argument or of what practice takes from it; each answer is computed from one
run, by the rule in its function's docstring, from intervals and tests of `prrmse.tables.inference`. Where a rule asks
something of every network (or source), no correction is due: all of them would have to err at once. Too few
observations give ``undecided``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from prrmse.settings import Verdict
from prrmse.tables.answer import UNDECIDED, Answer
from prrmse.tables.inference import Interval, decide
from prrmse.tables.ranking import SCORES, START

Tables = Mapping[str, pd.DataFrame]

# A correlation below this does not count as telling, a gain below this (Dice) not as one.
WEAK_CORRELATION, NO_GAIN = 0.3, 0.01


def findings(tables: Tables, settings: Verdict) -> pd.DataFrame:
    """One row per statement: statement, answer, statistic.

    Args:
        tables: controls, joint_effects, effects, ranking, gain, layers by name.
        settings: tolerance, level of ``verdict``.
    """
    rows = [(text, *answer_of(tables, settings)) for text, answer_of in STATEMENTS]
    return pd.DataFrame(rows, columns=["statement", "answer", "statistic"])


def swap_sees_features(tables: Tables, settings: Verdict) -> Answer:
    """Do kernels of the permuted twin, which computes the same, cost no more than the tolerance?

    Mean loss per kernel, over seeds and patients. Holds if the interval lies within the tolerance in every network,
    does not hold if it lies above in every network. Null: the loss is the tolerance.
    """
    return _control(tables, settings, "permuted", "permuted twin", beside="random")


def unchanged_means_nothing_lost(tables: Tables, settings: Verdict) -> Answer:
    """Do the target's own kernels, of its second seed, cost no more than the tolerance on average?

    As `swap_sees_features`. A seed is compared with the next one, so that two seeds are one pair and tell nothing.
    """
    return _control(tables, settings, "seed", "the target's other seed")


def short_connection(tables: Tables, _: Verdict) -> Answer:
    """The network's effect on normalised reuse at equal start, over seeds and patients: the sign of its interval.

    Null: no effect. Holds above 0, does not hold below.
    """
    return _effect(tables, "network: pspnet - unet")


def common_ancestor(tables: Tables, _: Verdict) -> Answer:
    """The start's effect on normalised reuse, mean over networks, over seeds and patients: the sign of its interval.

    Null: no effect. Holds above 0, does not hold below.
    """
    return _effect(tables, "start: shared - independent")


def alone_means_together(tables: Tables, settings: Verdict) -> Answer:
    """Are the first layers, each harmless alone, harmless together?

    For each (network, source) the longest run of first layers that are harmless alone, with what belongs to them; the
    loss when they are swapped together, over seeds and patients. Holds if every interval lies within the tolerance,
    does not hold if every one lies above. Null: the loss is the tolerance. Layers that are not harmless alone take no
    part. Undecided where no network and source has two such layers.
    """
    rows = tables["joint_effects"]
    rows = rows[(rows["effect"] == "together") & rows["value"].notna()]
    if rows.empty:
        return Answer(UNDECIDED, "no network and source with two or more first layers that are harmless alone")
    tolerance = settings.tolerance
    text = (
        f"the first {_range(rows['n_layers'], 'd')} layers, harmless alone, lose {_range(rows['value'], '.2f')} "
        f"together; tolerance {tolerance:g}, {_sizes(rows)}"
    )
    return Answer(decide((rows["high"] <= tolerance).all(), (rows["low"] > tolerance).all()), text)


def statistics_explain(tables: Tables, _: Verdict) -> Answer:
    """What estimating BN's statistics again gives back of the loss of a kernel alone, over seeds and patients.

    The loss that estimating again brings by itself is taken off. Holds if the interval lies above 0 for every network
    and source, does not hold if it lies below 0 for every one. Null: nothing is given back.
    """
    rows = tables["joint_effects"]
    rows = rows[rows["effect"] == "recovered"]
    if rows.empty:
        return Answer(UNDECIDED, "needs sweeps of several tensors")
    text = f"loss per kernel that is given back: {_range(rows['value'], '+.3f')}, {_sizes(rows)}"
    return Answer(decide((rows["low"] > 0).all(), (rows["high"] < 0).all()), text)


def distance_tells_loss(tables: Tables, _: Verdict) -> Answer:
    """Spearman correlation over kernels of raw RMSE and loss, mean over sources; unit: the kernel.

    Holds if the interval lies above 0 in every network; does not hold if in every network it lies below
    `WEAK_CORRELATION` and does not lie above 0. Null for ``holds``: no correlation; for ``does not hold``: a weak one.
    Beside it the loss from a random kernel in the same layer, which knows no source.
    """
    layers = tables["layers"].set_index(["measure", "net"])
    rmse, random = layers.loc["rmse"], layers.loc["drop_random"]
    text = "; ".join(
        f"{net}: RMSE {_interval(rmse.loc[net], 'rho'):.2f}, random kernel {random.loc[net, 'rho']:.2f}, "
        f"n = {rmse.loc[net, 'n_kernels']} kernels"
        for net in rmse.index
    )
    return Answer(decide((rmse["rho_low"] > 0).all(), (rmse["rho_high"] < WEAK_CORRELATION).all()), text)


def reuse_gains(tables: Tables, _: Verdict) -> Answer:
    """Does fine-tuning from every source gain over the target's own start? Intervals over runs and patients.

    Holds if every source's interval lies above 0; does not hold if every one lies below `NO_GAIN`. Null for ``holds``:
    no gain; for ``does not hold``: a gain of that much.
    """
    gain = tables["gain"]
    rows = gain[(gain["arm"] == "finetune") & (gain["source"] != START)]
    up, down = int((rows["gain_low"] > 0).sum()), int((rows["gain_high"] < NO_GAIN).sum())
    text = (
        f"of {len(rows)} sources {up} gain and {down} gain less than {NO_GAIN:g} by their intervals; mean "
        f"{rows['gain'].mean():+.3f} Dice, {rows['n_runs'].max()} runs each, {rows['n_patients'].max()} patients"
    )
    return Answer(decide(0 < len(rows) == up, 0 < len(rows) == down), text)


def closest_gains_most(tables: Tables, settings: Verdict) -> Answer:
    """Kendall's tau of closeness (RMSE) with the gain of fine-tuning, by permutation of the base models.

    Null: gains are exchangeable between base models. Holds if tau is positive in every network, does not hold if it is
    negative in every one; each at 2.5 % for a level of 95 %, exact. Below five base models always undecided.
    """
    ranking = tables["ranking"]
    rows = ranking[(ranking["score"] == "rmse") & (ranking["arm"] == "finetune")]
    text = "; ".join(
        f"{r['net']}: tau {_interval(r, 'tau'):.2f}, p = {min(1.0, 2 * min(r['p_above'], r['p_below'])):.2f}, "
        f"n = {r['n_sources']} sources of {r['n_models']} models"
        for _, r in rows.iterrows()
    )
    alpha = (1 - settings.level) / 2
    return Answer(decide((rows["p_above"] <= alpha).all(), (rows["p_below"] <= alpha).all()), text)


def some_score_ranks(tables: Tables, settings: Verdict) -> Answer:
    """Holds if one score has a positive tau with the gain of fine-tuning in every network, corrected for their number.

    By permutation of the base models (``p_any`` of `prrmse.tables.ranking.ranking_table`). Null: no score has to do
    with the gain; ``holds`` is then given in 2.5 % at most for a level of 95 %. Never ``does not hold``: that these
    scores fail would not show that none ranks.
    """
    ranking = tables["ranking"]
    rows = ranking[(ranking["arm"] == "finetune") & ranking["p_any"].notna()]
    if rows.empty:
        return Answer(UNDECIDED, "needs more sources")
    sure = rows[rows["p_any"] <= (1 - settings.level) / 2]
    common = [score for score in SCORES if (sure["score"] == score).sum() == rows["net"].nunique()]
    best = rows.sort_values(["p_any", "tau"], ascending=[True, False]).iloc[0]
    text = (
        f"{len(common)} of {rows['score'].nunique()} scores rank the sources in every network; the best is "
        f"{SCORES[best['score']][1]}, tau {best['tau']:.2f}, p = {best['p_any']:.2f} corrected for their number, "
        f"n = {best['n_models']} models"
    )
    return Answer(decide(len(common) > 0, False), text)


def _control(tables: Tables, settings: Verdict, control: str, name: str, beside: str = "") -> Answer:
    """A control's loss per kernel against the tolerance, in every network."""
    own = tables["controls"][tables["controls"]["control"] == control]
    if own.empty:
        return Answer(UNDECIDED, "needs two seeds")
    tolerance, others = settings.tolerance, tables["controls"][tables["controls"]["control"] == beside]
    texts = []
    for _, row in own.iterrows():
        other = others[others["net"] == row["net"]]["drop_kernels"]
        aside = "".join(f", {beside} kernels {value:.2f}" for value in other)
        texts.append(f"{row['net']} {_interval(row, 'drop_kernels'):.2f}{aside}")
    holds, fails = own["drop_kernels_high"] <= tolerance, own["drop_kernels_low"] > tolerance
    text = f"mean loss of Dice per kernel from {name}: {'; '.join(texts)}; tolerance {tolerance:g}, {_sizes(own)}"
    return Answer(decide(holds.all(), fails.all()), text)


def _effect(tables: Tables, effect: str) -> Answer:
    effects = tables["effects"][tables["effects"]["effect"] == effect].set_index("measure")
    if effects.empty:
        return Answer(UNDECIDED, "needs UNet and PSPNet in the run")
    reuse, drop = (Interval(*effects.loc[measure, ["value", "low", "high"]]) for measure in ("reuse", "drop"))
    text = f"normalised reuse {reuse:+.2f}; loss of Dice {drop:+.2f}; {_sizes(effects)}"
    return Answer(decide(reuse.low > 0, reuse.high < 0), text)


def _interval(row: pd.Series, column: str) -> Interval:
    return Interval(row[column], row[f"{column}_low"], row[f"{column}_high"])


def _range(values: pd.Series, spec: str) -> str:
    low, high = (format(value, spec) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _sizes(rows: pd.DataFrame) -> str:
    return f"{rows['n_seeds'].max()} seeds x {rows['n_patients'].max()} patients"


STATEMENTS: list[tuple[str, Callable[[Tables, Verdict], Answer]]] = [
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
