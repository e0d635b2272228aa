"""What holds of the paper's reasoning once controls, initialisation and sample are accounted for (ours).

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
from prrmse.tables.ranking import NO_SOURCE, SCORES

Tables = Mapping[str, pd.DataFrame]

# A correlation below this counts as none, and so does a gain below this (Dice).
WEAK_CORRELATION, NO_GAIN = 0.3, 0.01


def findings(tables: Tables, settings: Verdict) -> pd.DataFrame:
    """One row per statement: statement, answer, statistic.

    Args:
        tables: controls, joint_effects, effects, ranking, gain, layers by name.
        settings: tolerance, level of ``verdict``.
    """
    rows = [(text, *answer_of(tables, settings)) for text, answer_of in STATEMENTS]
    return pd.DataFrame(rows, columns=["statement", "answer", "statistic"])


def same_function_is_harmless(tables: Tables, settings: Verdict) -> Answer:
    """Is the drop from kernels of the permuted copy, which computes the same, within the tolerance?

    Mean drop per kernel, over seeds and patients. Holds if the interval lies within the tolerance in every network,
    does not hold if it lies above in every network. Null: the drop is the tolerance.
    """
    return _control(tables, settings, "permuted", "the permuted copy", baseline="random")


def other_seed_is_harmless(tables: Tables, settings: Verdict) -> Answer:
    """Is the mean drop from the target's own kernels, trained with its second seed, within the tolerance?

    As `same_function_is_harmless`. A seed is compared with the next one, so that two seeds are one pair: no variance.
    """
    return _control(tables, settings, "seed", "the target's other seed")


def short_connection(tables: Tables, _: Verdict) -> Answer:
    """The network's effect on normalised reuse at equal initialisation: the sign of its interval.

    Over seeds and patients. Null: no effect. Holds above 0, does not hold below.
    """
    return _effect(tables, "network: pspnet - unet")


def shared_initialisation(tables: Tables, _: Verdict) -> Answer:
    """The initialisation's effect on normalised reuse, mean over networks: the sign of its interval.

    Over seeds and patients. Null: no effect. Holds above 0, does not hold below.
    """
    return _effect(tables, "initialisation: shared - independent")


def alone_means_together(tables: Tables, settings: Verdict) -> Answer:
    """Are the first layers, each harmless alone, harmless together?

    For each (network, source) the longest run of first layers that are harmless alone, with what belongs to them; the
    drop when they are swapped together, over seeds and patients. Holds if every interval lies within the tolerance,
    does not hold if every one lies above. Null: the drop is the tolerance. Layers that are not harmless alone take no
    part. Undecided where no network and source has two such layers.
    """
    rows = tables["joint_effects"]
    rows = rows[(rows["effect"] == "together") & rows["value"].notna()]
    if rows.empty:
        return Answer(UNDECIDED, "no network and source with two or more first layers that are harmless alone")
    tolerance = settings.tolerance
    text = (
        f"the first {_range(rows['n_layers'], 'd')} layers, harmless alone, drop by {_range(rows['value'], '.2f')} "
        f"together; tolerance {tolerance:g}, {_sizes(rows)}"
    )
    return Answer(decide((rows["high"] <= tolerance).all(), (rows["low"] > tolerance).all()), text)


def statistics_explain(tables: Tables, _: Verdict) -> Answer:
    """How much of the drop from a kernel alone re-estimating BN's statistics recovers, over seeds and patients.

    The drop from re-estimating without a swap is subtracted. Holds if the interval lies above 0 for every network
    and source, does not hold if it lies below 0 for every one. Null: nothing is recovered.
    """
    rows = tables["joint_effects"]
    rows = rows[rows["effect"] == "recovered"]
    if rows.empty:
        return Answer(UNDECIDED, "needs sweeps of several tensors")
    text = f"drop per kernel that is recovered: {_range(rows['value'], '+.3f')}, {_sizes(rows)}"
    return Answer(decide((rows["low"] > 0).all(), (rows["high"] < 0).all()), text)


def distance_predicts_drop(tables: Tables, _: Verdict) -> Answer:
    """Spearman correlation over kernels of raw RMSE and drop, mean over sources; unit: the kernel.

    Holds if the interval lies above 0 in every network; does not hold if in every network it lies below
    `WEAK_CORRELATION` and does not lie above 0. Null for ``holds``: no correlation; for ``does not hold``: a weak one.
    Baseline: the drop from a random kernel in the same layer, which does not depend on the source.
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
    """Does fine-tuning from every source gain over the target's own initialisation? Intervals over runs and patients.

    Holds if every source's interval lies above 0; does not hold if every one lies below `NO_GAIN`. Null for ``holds``:
    no gain; for ``does not hold``: a gain of that much.
    """
    gain = tables["gain"]
    rows = gain[(gain["arm"] == "finetune") & (gain["source"] != NO_SOURCE)]
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


def _control(tables: Tables, settings: Verdict, control: str, name: str, baseline: str = "") -> Answer:
    """A control's drop per kernel against the tolerance, in every network."""
    own = tables["controls"][tables["controls"]["control"] == control]
    if own.empty:
        return Answer(UNDECIDED, "needs two seeds")
    tolerance, others = settings.tolerance, tables["controls"][tables["controls"]["control"] == baseline]
    texts = []
    for _, row in own.iterrows():
        other = others[others["net"] == row["net"]]["drop_kernels"]
        reference = "".join(f", {baseline} kernels {value:.2f}" for value in other)
        texts.append(f"{row['net']} {_interval(row, 'drop_kernels'):.2f}{reference}")
    holds, fails = own["drop_kernels_high"] <= tolerance, own["drop_kernels_low"] > tolerance
    text = f"mean drop in Dice per kernel from {name}: {'; '.join(texts)}; tolerance {tolerance:g}, {_sizes(own)}"
    return Answer(decide(holds.all(), fails.all()), text)


def _effect(tables: Tables, effect: str) -> Answer:
    effects = tables["effects"][tables["effects"]["effect"] == effect].set_index("measure")
    if effects.empty:
        return Answer(UNDECIDED, "needs UNet and PSPNet in the run")
    reuse, drop = (Interval(*effects.loc[measure, ["value", "low", "high"]]) for measure in ("reuse", "drop"))
    text = f"normalised reuse {reuse:+.2f}; drop in Dice {drop:+.2f}; {_sizes(effects)}"
    return Answer(decide(reuse.low > 0, reuse.high < 0), text)


def _interval(row: pd.Series, column: str) -> Interval:
    return Interval(row[column], row[f"{column}_low"], row[f"{column}_high"])


def _range(values: pd.Series, spec: str) -> str:
    low, high = (format(value, spec) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _sizes(rows: pd.DataFrame) -> str:
    return f"{rows['n_seeds'].max()} seeds x {rows['n_patients'].max()} patients"


STATEMENTS: list[tuple[str, Callable[[Tables, Verdict], Answer]]] = [
    ("A swap by a kernel that computes the same is harmless", same_function_is_harmless),
    ("A swap by the target's own kernel from another seed is harmless", other_seed_is_harmless),
    ("The short connection makes a network reusable (PSPNet against UNet at equal initialisation)", short_connection),
    ("A shared initialisation makes networks reusable (shared against independent)", shared_initialisation),
    ("Layers that are harmless alone are harmless together", alone_means_together),
    ("Part of the drop comes from the BN's stale statistics, not from the kernel", statistics_explain),
    ("The RMSE of a layer predicts the drop from swapping its kernel", distance_predicts_drop),
    ("Fine-tuning from a source gains over the target's own initialisation", reuse_gains),
    ("The source with the smallest RMSE gains most", closest_gains_most),
    ("Some score ranks the sources by their gain", some_score_ranks),
]
