"""The paper's eight claims, each with a computed answer.

The claims are the paper's; the rule by which each is answered is ours and stands in the docstring of its function: what
is estimated, what varies, what "no effect" means and how often a wrong answer is then given. `prrmse.tables.inference`
has the intervals and tests. Answers are ``holds``, ``does not hold`` or ``undecided``; too few observations always give
``undecided``. All of them are conditional on the data sets, the networks and the recipe of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from prrmse.names import BN_KINDS
from prrmse.settings import Verdict
from prrmse.tables.answer import UNDECIDED, Answer
from prrmse.tables.inference import (
    Interval,
    Values,
    concordance,
    crossed_array,
    crossed_interval,
    decide,
    mean_of,
    permutations,
    quantile_of_means,
    t_interval,
    tail_of,
)

Tables = Mapping[str, pd.DataFrame]

# Claim 3: at least this fraction of biases must be reusable, and less than this fraction of UNet's kernels.
BIASES, KERNELS = 0.9, 0.5
# Claim 6: an RMSE that is smaller by less than this, relatively, does not count as smaller.
RMSE_MARGIN = 0.05
# Claim 5: the convolutions of PSPNet's backbone (ResNet-18) that the sentence names, by number: the first; those with
# more output than input channels; and those that read one of these with no convolution or addition between.
NAMED_KERNELS = frozenset({1, 2, 6, 7, 8, 11, 12, 13, 16, 17, 18})
BACKBONE_KERNELS = 20
ENCODER_NORMS = 10  # claim 4: UNet's BN layers down to the bottleneck


def claims(tables: Tables, target: str, settings: Verdict) -> pd.DataFrame:
    """One row per claim: claim, text, answer, statistic, provenance.

    Args:
        tables: the contract's tables by name, and ``mean_dice`` (rows of `prrmse.tables.verdict.verdict_table`).
        target: the one whose sweeps and transfer are judged.
        settings: tolerance, level, resamples, rn_fraction of ``verdict``.
    """
    tables = {k: t[t["target"] == target] if "target" in t else t for k, t in tables.items()}
    provenance = ", ".join(sorted(set(tables["data"]["provenance"])))
    rows = []
    for number, (text, answer_of) in enumerate(CLAIMS, start=1):
        answer = answer_of(tables, settings)
        rows.append((number, text, answer.answer, answer.statistic, provenance))
    return pd.DataFrame(rows, columns=["claim", "text", "answer", "statistic", "provenance"])


def rn_by_architecture(tables: Tables, settings: Verdict) -> Answer:
    """PSPNet is an RN and UNet is not: `crossed_interval` over seeds and patients of each, against the tolerance.

    Estimand: the drop that ``rn_fraction`` of a network's kernels, all sources together, do not exceed; the network is
    an RN exactly if it is within the tolerance. Holds if PSPNet's interval lies within and UNet's above it; does not
    hold if PSPNet's lies above or UNet's within. Null: both networks are at the tolerance; then each end of each
    interval is wrong in 2.5 % at most, ``holds`` (both must be) in less, ``does not hold`` (one suffices) in 5 %.
    """
    rows = _drops(tables)
    rows = rows[(rows["kind"] == "W") & ~rows["final"]]
    if not {"unet", "pspnet"} <= set(rows["net"]):
        return Answer(UNDECIDED, "needs both networks in the run")
    statistic, tolerance = quantile_of_means(settings.rn_fraction), settings.tolerance
    values = {net: crossed_array(rows[rows["net"] == net], ["source", "layer"]) for net in ("pspnet", "unet")}
    pspnet, unet = (crossed_interval(statistic, values[net], settings.level) for net in ("pspnet", "unet"))
    network = tables["network"][tables["network"]["source"] == "all"].set_index("net")["fraction_kernels"]
    text = (
        f"reusable kernels: PSPNet {network['pspnet']:.0%}, UNet {network['unet']:.0%}; {settings.rn_fraction:.0%} "
        f"of the kernels lose at most: PSPNet {pspnet:.3f}, UNet {unet:.3f}; tolerance {tolerance:g}; "
        f"{_sizes(values['pspnet'])}"
    )
    holds = pspnet.high <= tolerance < unet.low
    return Answer(decide(holds, pspnet.low > tolerance or unet.high <= tolerance), text)


def mean_and_variance_matter_more(tables: Tables, settings: Verdict) -> Answer:
    """The drop of RM and RV less that of RW and RB, mean over BN layers, networks and sources: its sign.

    `crossed_interval` over seeds and patients. Null: the difference has mean 0 over trainings and patients; each of
    the two answers is then given in 2.5 % at most.
    """
    rows = _drops(tables)
    rows = rows[rows["kind"].isin(BN_KINDS)]
    if set(rows["kind"]) != set(BN_KINDS):
        return Answer(UNDECIDED, "needs BN layers")
    sign = rows["kind"].map({"RM": 2, "RV": 2, "RW": -2, "RB": -2})
    values = crossed_array(rows.assign(drop=sign * rows["drop"]), [])
    found = crossed_interval(mean_of, values, settings.level)
    layers = len(rows[["net", "layer"]].drop_duplicates())
    text = f"mean drop of RM, RV less that of RW, RB: {found:+.3f}; {layers} BN layers, {_sizes(values)}"
    return Answer(decide(found.low > 0, found.high < 0), text)


def bias_reusable_kernel_not(tables: Tables, settings: Verdict) -> Answer:
    """At least `BIASES` of the biases are reusable, and fewer than `KERNELS` of UNet's kernels (final ones left out).

    As claim 1: `crossed_interval` of the drop that this share does not exceed, over both networks' biases and over
    UNet's kernels. Holds if the biases' lies within and the kernels' above the tolerance; does not hold if the biases'
    lies above or the kernels' within. Null: both at the tolerance.
    """
    rows = _drops(tables)
    rows = rows[~rows["final"]]
    bias, kernel = rows[rows["kind"] == "B"], rows[(rows["kind"] == "W") & (rows["net"] == "unet")]
    if bias.empty or kernel.empty:
        return Answer(UNDECIDED, "needs UNet in the run")
    values = [crossed_array(part, ["net", "source", "layer"]) for part in (bias, kernel)]
    biases, kernels = (
        crossed_interval(quantile_of_means(share), v, settings.level)
        for share, v in zip((BIASES, KERNELS), values, strict=True)
    )
    tolerance = settings.tolerance
    text = (
        f"{BIASES:.0%} of {len(values[0])} biases lose at most {biases:.3f}, {KERNELS:.0%} of {len(values[1])} UNet "
        f"kernels at most {kernels:.3f}; tolerance {tolerance:g}; {_sizes(values[0])}"
    )
    return Answer(
        decide(biases.high <= tolerance < kernels.low, biases.low > tolerance or kernels.high <= tolerance), text
    )


def deeper_mean_more_reusable(tables: Tables, settings: Verdict) -> Answer:
    """Kendall's tau of the drop of RM with depth in UNet's encoder and bottleneck, by permutation of the layers.

    Unit: the layer; its drop is the mean over sources, seeds and patients. Null: drops are exchangeable between the
    layers. Holds if tau is negative, does not hold if it is positive, each at 2.5 %: exact, whatever is distributed.
    """
    verdict = tables["verdict"]
    rows = verdict[(verdict["net"] == "unet") & (verdict["kind"] == "RM") & (verdict["layer"] <= ENCODER_NORMS)]
    drop = rows.groupby("layer")["drop"].mean()
    if len(drop) < 2:
        return Answer(UNDECIDED, "needs UNet in the run")
    orders = permutations(len(drop), settings.resamples, "claim 4")
    depth, drops = drop.index.to_numpy(float), drop.to_numpy()
    tail = tail_of(concordance(depth, drops, orders))
    text = (
        f"Kendall's tau of depth and drop: {stats.kendalltau(depth, drops).statistic:.2f}, "
        f"p = {min(1.0, 2 * min(tail)):.3f}, n = {len(drop)} layers"
    )
    return Answer(decide(tail.below <= _alpha(settings), tail.above <= _alpha(settings)), text)


def non_reusable_are_channel_raising(tables: Tables, settings: Verdict) -> Answer:
    """Fisher's exact test: are `NAMED_KERNELS` non-reusable more often than the other kernels of PSPNet's backbone?

    Unit: the kernel; it counts as non-reusable if it is so for most sources. Null: being non-reusable does not depend
    on being named. Holds if the named ones are it more often, does not hold if less often, each at 2.5 %. Otherwise
    undecided: 20 kernels cannot show that there is no difference.
    """
    verdict = tables["verdict"]
    rows = verdict[(verdict["net"] == "pspnet") & (verdict["kind"] == "W") & (verdict["layer"] <= BACKBONE_KERNELS)]
    lost = rows.groupby("layer")["reusable"].mean() < 0.5
    if len(lost) < BACKBONE_KERNELS:
        return Answer(UNDECIDED, "needs PSPNet in the run")
    named = np.array([layer in NAMED_KERNELS for layer in lost.index])
    table = np.array([[(lost & of).sum(), (~lost & of).sum()] for of in (named, ~named)])
    more, less = (float(stats.fisher_exact(table, alternative=side).pvalue) for side in ("greater", "less"))
    text = (
        f"non-reusable: {table[0, 0]} of {named.sum()} named kernels, {table[1, 0]} of the {(~named).sum()} others; "
        f"Fisher's p = {more:.3f} for more, {less:.3f} for fewer"
    )
    return Answer(decide(more <= _alpha(settings), less <= _alpha(settings)), text)


def rmse_independent_of_data_and_task(tables: Tables, settings: Verdict) -> Answer:
    """Is the RMSE of kernels smaller for pairs that share the task, or the data set, than for pairs that share nothing?

    Estimands: the two relative differences, of means over kernels and pairs, mean over networks. Unit: the seed;
    Student's t. Holds if neither is smaller by `RMSE_MARGIN` (the intervals' lower ends lie above it: non-inferiority).
    Does not hold if one of them is smaller at all (upper end below 0, each at half of the error, as there are two) and
    the margin is not excluded. Null for ``does not hold``: no difference; for ``holds``: one of them at the margin.
    """
    rmse = tables["rmse"][(tables["rmse"]["kind"] == "W") & ~tables["rmse"]["final"]]
    a, b = (rmse[c].str.rsplit("-", n=1, expand=True) for c in ("model_a", "model_b"))
    shared = np.select([(a[0] == b[0]), (a[1] == b[1])], ["data", "task"], "nothing")
    means = rmse.assign(shared=shared).groupby(["net", "seed", "shared"])["rmse"].mean().unstack()
    if not {"data", "task", "nothing"} <= set(means.columns):
        return Answer(UNDECIDED, "needs models of two data sets and two tasks")
    relative = means[["task", "data"]].div(means["nothing"], axis=0).sub(1).groupby("seed").mean()
    found: dict[str, Interval] = {}
    strict: dict[str, Interval] = {}
    for what in ("task", "data"):
        found[what] = t_interval(relative[what].to_numpy(), settings.level)
        strict[what] = t_interval(relative[what].to_numpy(), (1 + settings.level) / 2)
    text = (
        f"RMSE against pairs that share nothing: same task {found['task']:+.1%}, same data {found['data']:+.1%}; "
        f"margin {-RMSE_MARGIN:.0%}, n = {len(relative)} seeds"
    )
    holds = all(interval.low > -RMSE_MARGIN for interval in found.values())
    return Answer(decide(holds, any(interval.high < 0 for interval in strict.values())), text)


def pretrained_not_always_helps(tables: Tables, settings: Verdict) -> Answer:
    """Is some (samples, arm, source) worse than training from scratch? Paired t tests over seeds, one an arm.

    Estimand: each arm's mean gain over trainings, for these validation patients. Holds if an arm loses, by Holm's
    correction over the arms; does not hold if every arm gains. Null: no source has any effect; ``holds`` is then given
    in 2.5 % at most, whatever the number of arms, and ``does not hold`` less often still.
    """
    gain = gains(tables["transfer"])
    if gain.empty:
        return Answer(UNDECIDED, "needs transfer runs with a scratch arm")
    runs = gain.groupby(["net", "samples", "arm", "source"])["gain"].agg(["mean", "std", "count"])
    with np.errstate(divide="ignore", invalid="ignore"):
        t = runs["mean"] / (runs["std"] / np.sqrt(runs["count"]))
    lose = stats.t.cdf(t, (runs["count"] - 1).clip(lower=1))
    lose = np.where(runs["count"] > 1, lose, np.nan)  # one run has no variance
    holm = _holm(lose)
    worse, better = int((holm <= _alpha(settings)).sum()), int((1 - lose <= _alpha(settings)).sum())
    text = (
        f"of {len(runs)} arms {worse} lose (Holm's correction), {better} gain (none), {gain['seed'].nunique()} seeds; "
        f"mean gain {gain['gain'].mean():+.3f} (SD over arms {runs['mean'].std():.3f}), worst {runs['mean'].min():+.3f}"
    )
    return Answer(decide(worse > 0, better == len(runs)), text)


def smallest_rmse_helps_most(tables: Tables, settings: Verdict) -> Answer:
    """Kendall's tau of a source's closeness (mean RMSE of kernels) with its mean gain in fine-tuning, by permutation.

    Unit: the source. Null: gains are exchangeable between the sources; all networks are permuted alike. Holds if tau is
    positive, does not hold if it is negative, each at 2.5 %, exact. With n sources p cannot be below 1 / n!: below five
    the answer is always ``undecided``, and chance alone picks the best source in one of n runs.
    """
    gain = gains(tables["transfer"])
    gain = gain[gain["arm"] == "finetune"]
    rmse = tables["rmse"][(tables["rmse"]["kind"] == "W") & ~tables["rmse"]["final"]]
    turned = rmse.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    to_target = pd.concat([rmse, turned])
    to_target = to_target[to_target["model_a"].isin(tables["verdict"]["target"].unique())]
    distance = to_target.groupby(["model_b", "net"])["rmse"].mean().unstack()
    mean = gain.groupby(["source", "net"])["gain"].mean().unstack().dropna()
    mean = mean[mean.index.isin(distance.dropna().index)]
    if len(mean) < 2:
        return Answer(UNDECIDED, "needs two or more fine-tuned sources and a scratch arm")
    distance = distance.loc[mean.index, mean.columns]
    orders = permutations(len(mean), settings.resamples, "claim 8")
    total = sum(concordance(-distance[net].to_numpy(), mean[net].to_numpy(), orders) for net in mean)
    tail = tail_of(np.asarray(total))
    texts = [
        f"{net}: closest {distance[net].idxmin()}, most helpful {mean[net].idxmax()}, tau of closeness and gain "
        f"{stats.kendalltau(-distance[net], mean[net]).statistic:.2f}"
        for net in mean
    ]
    n = len(mean)
    text = f"{'; '.join(texts)}; p = {min(1.0, 2 * min(tail)):.2f}, n = {n} sources (chance picks the best in 1/{n})"
    return Answer(decide(tail.above <= _alpha(settings), tail.below <= _alpha(settings)), text)


def gains(transfer: pd.DataFrame) -> pd.DataFrame:
    """Mean foreground Dice less that of scratch, paired by net, samples and seed."""
    rows = transfer[transfer["class"] == "mean"]
    keys = ["net", "samples", "seed"]
    scratch = rows[rows["arm"] == "scratch"][[*keys, "dice"]].rename(columns={"dice": "scratch"})
    merged = rows[rows["arm"] != "scratch"].merge(scratch, on=keys)
    return merged.assign(gain=merged["dice"] - merged["scratch"])


def _drops(tables: Tables) -> pd.DataFrame:
    rows = tables["mean_dice"]
    return rows.assign(drop=rows["baseline"] - rows["dice"])


def _sizes(values: Values) -> str:
    return "{} seeds x {} patients".format(*values.shape[-2:])


def _alpha(settings: Verdict) -> float:
    """How often each of the two answers may be given without an effect."""
    return float(1 - settings.level) / 2


def _holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p; NaN stays."""
    order = np.argsort(p)
    known = int(np.isfinite(p).sum())
    adjusted = np.full(len(p), np.nan)
    factors = np.arange(known, 0, -1)
    adjusted[order[:known]] = np.minimum(1, np.maximum.accumulate(p[order[:known]] * factors))
    return adjusted


CLAIMS: list[tuple[str, Callable[[Tables, Verdict], Answer]]] = [
    ("PSPNet is a reusable network (RN), UNet is not", rn_by_architecture),
    ("RM and RV matter more than RW and RB", mean_and_variance_matter_more),
    ("Conv bias can be reused; W cannot in UNet", bias_reusable_kernel_not),
    ("The deeper the layer, the more reusable RM (UNet)", deeper_mean_more_reusable),
    (
        "PSPNet's non-reusable kernels are the first, those that raise the channel count, and the one behind each",
        non_reusable_are_channel_raising,
    ),
    ("The size of RMSE does not follow from data set or task alike", rmse_independent_of_data_and_task),
    ("Loading pretrained parameters does not always help", pretrained_not_always_helps),
    ("The source with the smallest RMSE helps most", smallest_rmse_helps_most),
]
