"""The paper's eight claims (DESIGN section 5), each with a computed answer.

The claims are the paper's; the rule by which each is answered is ours [rec] and stands in the docstring
of its function. Answers are ``holds``, ``does not hold`` or ``undecided``; too few observations always
give ``undecided``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED, Answer
from prrmse.tables.bootstrap import bootstrap_mean
from prrmse.tables.plan import PAPER_NOT_REUSED

Tables = Mapping[str, pd.DataFrame]
BOOTSTRAP = {"resamples": 2000, "level": 0.95}


def claims(tables: Tables, target: str) -> pd.DataFrame:
    """One row per claim: claim, text, answer, statistic, provenance.

    Args:
        tables: the contract's tables by name.
        target: the one whose sweeps and transfer are judged.
    """
    tables = {k: t[t["target"] == target] if "target" in t else t for k, t in tables.items()}
    provenance = ", ".join(sorted(set(tables["data"]["provenance"])))
    rows = []
    for number, (text, answer_of) in enumerate(CLAIMS, start=1):
        answer = answer_of(tables)
        rows.append((number, text, answer.answer, answer.statistic, provenance))
    return pd.DataFrame(rows, columns=["claim", "text", "answer", "statistic", "provenance"])


def rn_by_architecture(tables: Tables) -> Answer:
    """Both halves must be so: PSPNet is an RN, UNet is not, over all sources (``network.csv``)."""
    network = tables["network"][tables["network"]["source"] == "all"]
    is_rn = network.groupby("net")["is_rn"].all()
    if not {"unet", "pspnet"} <= set(is_rn.index):
        return Answer(UNDECIDED, "needs both networks in the run")
    share = network.groupby("net")["fraction_kernels"].mean()
    text = f"reusable kernels: PSPNet {share['pspnet']:.0%}, UNet {share['unet']:.0%} (mean over sources)"
    return Answer(HOLDS if is_rn["pspnet"] and not is_rn["unet"] else FAILS, text)


def mean_and_variance_matter_more(tables: Tables) -> Answer:
    """Drops of RM and RV less those of RW and RB, paired by (net, target, source, BN layer).

    Holds or not if the bootstrap interval of the mean difference over (net, layer) leaves out 0.
    """
    verdict = tables["verdict"]
    bn = verdict[verdict["kind"].isin(["RM", "RV", "RW", "RB"])]
    keys = ["net", "layer", "target", "source"]
    wide = bn.pivot_table(index=keys, columns="kind", values="drop").dropna()
    if len(wide) < 8:
        return Answer(UNDECIDED, f"only {len(wide)} BN layers")
    difference = (wide["RM"] + wide["RV"] - wide["RW"] - wide["RB"]) / 2
    by_layer = difference.groupby(["net", "layer"]).mean()
    return _sign(by_layer.to_numpy(), "mean drop of RM, RV less that of RW, RB", "BN layers")


def bias_reusable_kernel_not(tables: Tables) -> Answer:
    """At least 90 % of the biases (not final) are reusable over both nets, and under half of UNet's kernels."""
    verdict = tables["verdict"][~tables["verdict"]["final"]]
    bias = verdict[verdict["kind"] == "B"]["reusable"]
    kernel = verdict[(verdict["kind"] == "W") & (verdict["net"] == "unet")]["reusable"]
    if bias.empty or kernel.empty:
        return Answer(UNDECIDED, "needs UNet in the run")
    text = f"reusable: {bias.mean():.0%} of {len(bias)} biases, {kernel.mean():.0%} of {len(kernel)} UNet kernels"
    return Answer(HOLDS if bias.mean() >= 0.9 and kernel.mean() < 0.5 else FAILS, text)


def deeper_mean_more_reusable(tables: Tables) -> Answer:
    """Spearman correlation of the drop of RM with depth in UNet's encoder and bottleneck (BN 1 to 10).

    Holds if it is negative with p < 0.05, fails if positive with p < 0.05.
    """
    verdict = tables["verdict"]
    rows = verdict[(verdict["net"] == "unet") & (verdict["kind"] == "RM") & (verdict["layer"] <= 10)]
    drop = rows.groupby("layer")["drop"].mean()
    if len(drop) < 8 or drop.nunique() < 2:
        return Answer(UNDECIDED, f"only {len(drop)} BN layers of UNet")
    result = stats.spearmanr(drop.index, drop)
    text = f"Spearman of depth and drop: {result.statistic:.2f}, p = {result.pvalue:.3f}, n = {len(drop)} layers"
    if result.pvalue >= 0.05:
        return Answer(UNDECIDED, text)
    return Answer(HOLDS if result.statistic < 0 else FAILS, text)


def non_reusable_are_channel_raising(tables: Tables) -> Answer:
    """Fisher's exact test of our non-reusable kernels against the paper's printed list, PSPNet's backbone.

    A kernel counts as non-reusable if it is so for most sources. Holds at an odds ratio above 1 with
    p < 0.05; fails at p >= 0.05 if 5 to 15 of the 20 differ, so that the test could have told.
    """
    verdict = tables["verdict"]
    rows = verdict[(verdict["net"] == "pspnet") & (verdict["kind"] == "W") & (verdict["layer"] <= 20)]
    ours = rows.groupby("layer")["reusable"].mean() < 0.5
    if len(ours) < 20:
        return Answer(UNDECIDED, "needs PSPNet in the run")
    listed = np.array([("W", layer) in PAPER_NOT_REUSED["pspnet"] for layer in ours.index])
    table = [[int((ours & listed).sum()), int((ours & ~listed).sum())],
             [int((~ours & listed).sum()), int((~ours & ~listed).sum())]]  # fmt: skip
    test = stats.fisher_exact(np.array(table), alternative="greater")
    text = (
        f"non-reusable: {int(ours.sum())} of 20 kernels, {table[0][0]} of the paper's {int(listed.sum())}; "
        f"Fisher p = {test.pvalue:.3f}"
    )
    if test.pvalue < 0.05:
        return Answer(HOLDS, text)
    return Answer(FAILS if 5 <= ours.sum() <= 15 else UNDECIDED, text)


def rmse_not_from_likeness(tables: Tables) -> Answer:
    """Is the mean RMSE of kernels smaller for pairs that share the data set or the task?

    For each net and seed: mean over pairs that share something, less mean over pairs that share nothing.
    The claim (it does not follow from likeness) fails if the interval of that difference lies below 0
    for all; holds if it reaches 0.
    """
    rmse = tables["rmse"][(tables["rmse"]["kind"] == "W") & ~tables["rmse"]["final"]].copy()
    a, b = (rmse[c].str.rsplit("-", n=1, expand=True) for c in ("model_a", "model_b"))
    rmse["alike"] = (a[0] == b[0]) | (a[1] == b[1])
    means = rmse.groupby(["net", "seed", "alike"])["rmse"].mean().unstack()
    if means.shape[1] < 2 or len(means) < 2:
        return Answer(UNDECIDED, "needs pairs of models that share nothing, and more than one seed or net")
    relative = ((means[True] - means[False]) / means[False]).to_numpy()
    low, high = _interval(relative)
    text = (
        f"RMSE of pairs that share data or task, against others: {relative.mean():+.1%} "
        f"(95 % {low:+.1%} to {high:+.1%}, n = {len(relative)} net x seed)"
    )
    return Answer(FAILS if high < 0 else HOLDS, text)


def pretrained_not_always_helps(tables: Tables) -> Answer:
    """Some (samples, arm, source) loses against scratch in every seed, by 0.01 or more on average."""
    gain = gains(tables["transfer"])
    if gain.empty or gain["seed"].nunique() < 2:
        return Answer(UNDECIDED, "needs transfer runs of more than one seed")
    runs = gain.groupby(["net", "samples", "arm", "source"])["gain"].agg(["mean", "max", "min", "count"])
    worse = runs[(runs["max"] < 0) & (runs["mean"] <= -0.01)]
    better = runs[(runs["min"] > 0) & (runs["mean"] >= 0.01)]
    text = (
        f"of {len(runs)} arms {len(worse)} lose and {len(better)} gain in all {gain['seed'].nunique()} seeds; "
        f"mean gain {gain['gain'].mean():+.3f} (SD over arms {runs['mean'].std():.3f}), worst {runs['mean'].min():+.3f}"
    )
    if len(worse):
        return Answer(HOLDS, text)
    return Answer(FAILS if len(better) == len(runs) else UNDECIDED, text)


def smallest_rmse_helps_most(tables: Tables) -> Answer:
    """Kendall's tau of a source's mean RMSE with its mean gain.

    With n sources chance alone picks the best one in 1/n of the cases, and below 5 sources no tau can
    reach p < 0.05 one-sided: then the answer is ``undecided`` unless the closest source is the worst.
    """
    gain = gains(tables["transfer"])
    if gain.empty:
        return Answer(UNDECIDED, "needs transfer runs with a scratch arm")
    rmse = tables["rmse"][(tables["rmse"]["kind"] == "W") & ~tables["rmse"]["final"]]
    target = tables["verdict"]["target"].iloc[0]
    turned = rmse.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    both = pd.concat([rmse, turned])
    to_target = both[both["model_a"] == target]
    distance = to_target.groupby(["net", "model_b"])["rmse"].mean()
    answers, texts = [], []
    for net, rows in gain.groupby("net"):
        mean = rows.groupby("source")["gain"].mean()
        d = distance[net].reindex(mean.index)
        if len(mean) < 2 or d.isna().any():
            continue
        test = stats.kendalltau(-d, mean, alternative="greater")
        texts.append(
            f"{net}: closest {d.idxmin()}, most helpful {mean.idxmax()}; tau of closeness and gain "
            f"{test.statistic:.2f}, p = {test.pvalue:.2f}, n = {len(mean)} sources "
            f"(chance picks the best in 1/{len(mean)})"
        )
        if test.pvalue < 0.05:
            answers.append(HOLDS)
        else:
            answers.append(FAILS if d.idxmin() == mean.idxmin() else UNDECIDED)
    answer = answers[0] if answers and len(set(answers)) == 1 else UNDECIDED
    return Answer(answer, "; ".join(texts) or "needs two or more sources")


def gains(transfer: pd.DataFrame) -> pd.DataFrame:
    """Mean foreground Dice less that of scratch, paired by net, samples and seed."""
    rows = transfer[transfer["class"] == "mean"]
    keys = ["net", "samples", "seed"]
    scratch = rows[rows["arm"] == "scratch"][[*keys, "dice"]].rename(columns={"dice": "scratch"})
    merged = rows[rows["arm"] != "scratch"].merge(scratch, on=keys)
    return merged.assign(gain=merged["dice"] - merged["scratch"])


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = bootstrap_mean(values, BOOTSTRAP, "claims")
    return float(low), float(high)


def _sign(values: np.ndarray, name: str, unit: str) -> Answer:
    low, high = _interval(values)
    text = f"{name}: {values.mean():+.3f} (95 % {low:+.3f} to {high:+.3f}, n = {len(values)} {unit})"
    if low > 0:
        return Answer(HOLDS, text)
    return Answer(FAILS if high < 0 else UNDECIDED, text)


CLAIMS: list[tuple[str, Callable[[Tables], Answer]]] = [
    ("PSPNet is a reusable network (RN), UNet is not", rn_by_architecture),
    ("RM and RV matter more than RW and RB", mean_and_variance_matter_more),
    ("Conv bias can be reused; W cannot in UNet", bias_reusable_kernel_not),
    ("The deeper the layer, the more reusable RM (UNet)", deeper_mean_more_reusable),
    (
        "PSPNet's non-reusable kernels are the first, those that raise the channel count, and the one behind each",
        non_reusable_are_channel_raising,
    ),
    ("The size of RMSE does not follow from data set or task alike", rmse_not_from_likeness),
    ("Loading pretrained parameters does not always help", pretrained_not_always_helps),
    ("The source with the smallest RMSE helps most", smallest_rmse_helps_most),
]
