"""The study's tables: what each start and list of layers gained, target by target, and what holds over targets (ours).

The unit is the target: a contrast is one number for each target (mean over seeds and test patients), and its interval
is Student's over targets. With 95 % an answer that no effect supports is given in 2.5 % of studies on each side, as far
as targets are independent draws; two vendors of one challenge are less than that.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
from scipy import stats

from prrmse.names import PRETRAINED, SCRATCH, STUDY_PLANS, split_model
from prrmse.settings import Verdict
from prrmse.tables.answer import UNDECIDED, Answer
from prrmse.tables.inference import Interval, corrected_tails, decide, kendall_tau, permutations, t_interval, tail_of
from prrmse.tables.means import mean_over_patients
from prrmse.tables.ranking import SCORES
from prrmse.tables.verdict import verdict_table

RUN = ["net", "target", "source", "reused", "mode", "seed", "split"]
COUNTS = ["n_train", "pairs_reused", "scalars_reused"]
RECIPE = ["recipe", "net", "model", "seed", "steps", "batch_size", "learning_rate", "weight_decay", "loss", "augment"]
# A list drawn at random, whichever draw it is.
RANDOM = "random"


def runs_table(parts: pd.DataFrame) -> pd.DataFrame:
    """Each training by split and class: dice, dice_sd over patients, n_patients, and `COUNTS`.

    Args:
        parts: rows of `prrmse.experiments.study.study_run` with `RUN`.
    """
    return mean_over_patients(parts, [*RUN, *COUNTS, "class"])


def base_measured_table(parts: pd.DataFrame) -> pd.DataFrame:
    """Each base model by split and class: dice, dice_sd over patients, n_patients."""
    return mean_over_patients(parts, ["net", "model", "seed", "split", "class"])


def recipes_table(parts: pd.DataFrame) -> pd.DataFrame:
    """Base models trained otherwise: `RECIPE` with the mean foreground Dice on ``val`` and ``test``, n_test patients.

    Args:
        parts: rows of `prrmse.experiments.study.base_measured` with `RECIPE`; may be empty.
    """
    if parts.empty:
        return pd.DataFrame(columns=[*RECIPE, "val", "test", "n_test"])
    means = mean_over_patients(parts[parts["class"] == "mean"], [*RECIPE, "split"])
    wide = means.pivot_table(index=RECIPE, columns="split", values="dice", sort=False)[["val", "test"]]
    n = means[means["split"] == "test"].set_index(RECIPE)["n_patients"].rename("n_test")
    return wide.join(n).reset_index()


def reuse_table(sweeps: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """How well kernels that all networks have bear a swap, by net and target: drop, drop_random, reuse.

    Args:
        sweeps: of neighbouring targets, and from random kernels (source ``random``), mean over classes.
        settings: tolerance.

    Returns:
        net, target, source, drop (mean over kernels and patients), drop_random, ``reuse``: 1 - drop / drop_random;
        ``reusable``: share of the kernels whose mean drop is within the tolerance; n_kernels, n_patients.
    """
    rows = sweeps[(sweeps["kind"] == "W") & ~sweeps["final"].astype(bool)]
    modules = [set(group["module"]) for _, group in rows.groupby("net")]
    rows = rows[rows["module"].isin(set.intersection(*modules))].assign(drop=lambda t: t["baseline"] - t["dice"])
    by_kernel = rows.groupby(["net", "target", "source", "module"], sort=False)["drop"].mean().reset_index()
    by_kernel["reusable"] = by_kernel["drop"] <= settings.tolerance
    grouped = by_kernel.groupby(["net", "target", "source"], sort=False)
    found = grouped[["drop", "reusable"]].mean().assign(n_kernels=grouped["drop"].count())
    found["n_patients"] = rows.groupby(["net", "target", "source"], sort=False)["patient"].nunique()
    found = found.reset_index()
    random = found[found["source"] == "random"].set_index(["net", "target"])["drop"].rename("drop_random")
    found = found[found["source"] != "random"].join(random, on=["net", "target"])
    found["reuse"] = 1 - found["drop"] / found["drop_random"]
    columns = ["net", "target", "source", "drop", "drop_random", "reuse", "reusable", "n_kernels", "n_patients"]
    return found[columns].reset_index(drop=True)


def guides_table(whole: pd.DataFrame, few: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """What the verdict says where the target was trained on few patients only, against where it was trained on all.

    Args:
        whole, few: sweeps of the same targets by the same sources, mean over classes.
        settings: when a pair counts as reusable.

    Returns:
        net, target, source, n_pairs (the final convolution left out), reusable_all, reusable_few, both, agreement
        (share of the pairs of which both say the same), expected (the same, if the two had nothing to do with each
        other), spearman (of the drops).
    """
    keys = ["net", "target", "source"]
    pair = ["kind", "layer"]
    found = [verdict_table(sweep, settings) for sweep in (whole, few)]
    both = found[0][~found[0]["final"].astype(bool)].merge(found[1], on=[*keys, *pair], suffixes=("_all", "_few"))
    lines = []
    for key, own in both.groupby(keys, sort=False):
        a, b = own["reusable_all"].to_numpy(bool), own["reusable_few"].to_numpy(bool)
        expected = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
        rho = stats.spearmanr(own["drop_all"], own["drop_few"]).statistic
        lines.append((*key, len(own), a.sum(), b.sum(), (a & b).sum(), (a == b).mean(), expected, rho))
    columns = ["n_pairs", "reusable_all", "reusable_few", "both", "agreement", "expected", "spearman"]
    return pd.DataFrame(lines, columns=[*keys, *columns])


def _foreground(runs: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of `runs_table` with the mean over the foreground's classes, measured on a split."""
    return runs[(runs["class"] == "mean") & (runs["split"] == split)]


def seeds_in_words(runs: pd.DataFrame) -> str:
    """Over how many seeds the targets' runs are: ``one seed``, ``2 seeds``, ``up to 2 seeds`` where targets differ."""
    seeds = runs.groupby(["net", "target"])["seed"].nunique()
    if seeds.max() == 1:
        return "one seed"
    return f"{'up to ' if seeds.min() < seeds.max() else ''}{seeds.max()} seeds"


def dice_of(runs: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Mean foreground Dice over seeds and random draws: net, target, source, reused, mode, dice.

    Args:
        runs: of `runs_table`.
        split: measured on.
    """
    own = _foreground(runs, split)
    own = own.assign(reused=own["reused"].str.replace(r"\d+$", "", regex=True))
    return own.groupby(["net", "target", "source", "reused", "mode"], sort=False)["dice"].mean().reset_index()


def arm(means: pd.DataFrame, reused: str, mode: str, source: str | None = None) -> pd.Series[float]:
    """Dice by (net, target) of one arm.

    Args:
        means: of `dice_of`.
        reused, mode: of the arm.
        source: where it starts; None for the base model by which lists of layers are compared.
    """
    own = means[(means["reused"] == reused) & (means["mode"] == mode)]
    if source is not None:
        own = own[own["source"] == source]
    else:
        listed = means.loc[means["reused"] == "verdict", ["net", "target", "source"]].drop_duplicates()
        own = own.merge(listed, on=["net", "target", "source"])
    return own.set_index(["net", "target"])["dice"]


def of_starts(runs: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Mean foreground Dice of each start, all of it trained further: net, target, seed, source, dice.

    Args:
        runs: of `runs_table`.
        split: measured on.
    """
    own = _foreground(runs, split)
    own = own[(own["mode"] == "finetune") & own["reused"].isin(["none", "all"])]
    return own[["net", "target", "seed", "source", "dice"]].reset_index(drop=True)


def of_sources(means: pd.DataFrame, task: str | None = None) -> pd.DataFrame:
    """The rows of `dice_of` whose source (of this task, if one is named) is reused as a whole and trained further."""
    own = means[(means["reused"] == "all") & (means["mode"] == "finetune")]
    return own if task is None else own[own["source"].map(lambda source: split_model(source)[1] == task)]


def mean_source(means: pd.DataFrame, task: str) -> pd.Series[float]:
    """Mean Dice over the sources of a task, by (net, target)."""
    return of_sources(means, task).groupby(["net", "target"], sort=False)["dice"].mean()


def gains_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Each target in a line: the starts, and the source that is best on the validation patients, all on test patients.

    Each seed chooses its own source, as who trains once would; what is reported is the mean over seeds.

    Returns:
        net, target, n_train, scratch, pretrained (NaN without), best_source (of every seed, where they differ), best,
        mean_seg (over segmentation models), mean_auto (over auto-encoders, NaN without), n_sources.
    """
    keys = ["net", "target"]
    grouped = pd.concat([_gains(own) for _, own in runs.groupby("seed", sort=False)]).groupby(keys, sort=False)
    found = grouped[[SCRATCH, PRETRAINED, "best", "mean_seg", "mean_auto"]].mean()
    found.insert(2, "best_source", grouped["best_source"].agg(lambda names: ", ".join(dict.fromkeys(names.dropna()))))
    found.insert(0, "n_train", grouped["n_train"].max())
    return found.assign(n_sources=grouped["n_sources"].max()).reset_index()


def _gains(runs: pd.DataFrame) -> pd.DataFrame:
    """`gains_table` of one seed, by (net, target)."""
    test, val = dice_of(runs), dice_of(runs, "val")
    keys = ["net", "target"]
    found = runs.groupby(keys, sort=False)["n_train"].max().to_frame()
    for start in (SCRATCH, PRETRAINED):
        found[start] = arm(test, "none", "finetune", start)
    reported, chosen_on = of_sources(test), of_sources(val)
    chosen = chosen_on.loc[chosen_on.groupby(keys, sort=False)["dice"].idxmax()]
    best = reported.merge(chosen[[*keys, "source"]], on=[*keys, "source"]).set_index(keys)
    found["best_source"], found["best"] = best["source"], best["dice"]
    for task in ("seg", "auto"):
        found[f"mean_{task}"] = mean_source(test, task)
    found["n_sources"] = reported.groupby(keys, sort=False)["dice"].count()
    return found


def contrasts(runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """What one choice gains over another in Dice, over targets; paired by seed, and then the mean over seeds.

    Returns:
        net, contrast, value, low, high (`t_interval` over targets), smallest, largest, n_targets; nothing of what a
        network without pretrained weights has no runs for.
    """
    of_seed = [_differences(own) for _, own in runs.groupby("seed", sort=False)]
    lines = []
    for name in of_seed[0]:
        values = pd.concat([found[name].dropna() for found in of_seed]).groupby(level=[0, 1], sort=False).mean()
        lines += [
            {"net": net, "contrast": name, **over_targets(own, level), "smallest": own.min(), "largest": own.max()}
            for net, own in values.groupby(level=0, sort=False)
        ]
    return pd.DataFrame(lines)


def _differences(runs: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Contrast -> difference in test Dice by (net, target), of one seed."""
    test, gains = dice_of(runs), _gains(runs)
    start, verdict = gains[PRETRAINED], {mode: arm(test, "verdict", mode) for mode in MODES}
    return {
        "pretrained start - random start": start - gains[SCRATCH],
        "best source on validation - pretrained start": gains["best"] - start,
        "mean segmentation source - pretrained start": gains["mean_seg"] - start,
        "mean auto-encoder source - pretrained start": gains["mean_auto"] - start,
        "best source on validation - mean segmentation source": gains["best"] - gains["mean_seg"],
        **{
            f"verdict's list - {other}, {mode}": verdict[mode] - arm(test, other, mode)
            for mode in MODES
            for other in (RANDOM, "all")
        },
        "verdict's list - nothing of the source, finetune": verdict["finetune"] - start,
        "all - nothing of the source, freeze": arm(test, "all", "freeze") - start,
        **{
            f"{name} - all, finetune": arm(test, "all", mode) - arm(test, "all", "finetune")
            for mode, name in STUDY_PLANS.items()
        },
    }


MODES = ("finetune", "freeze")


def over_targets(values: pd.Series[float], level: float) -> dict[str, float]:
    """value, low, high, n_targets of one number for each target."""
    return {**t_interval(np.asarray(values, np.float64), level)._asdict(), "n_targets": len(values)}


def ancestry_effects(reuse: pd.DataFrame, ancestry: dict[str, tuple[str, str]], level: float) -> pd.DataFrame:
    """Architecture or common ancestor: effects on the reuse of the kernels that the networks share, over targets.

    Args:
        reuse: of `reuse_table`.
        ancestry: of each architecture the network with, and that without, a common ancestor.
        level: of the intervals.

    Returns:
        effect, value, low, high, n_targets.
    """
    of = {net: own.set_index("target")["reuse"] for net, own in reuse.groupby("net")}
    names = list(ancestry)
    gained = [of[own] - of[none] for own, none in ancestry.values()]
    found = {"common ancestor - none": pd.concat(gained, axis=1).mean(axis=1, skipna=False)}
    for first, second in itertools.pairwise(names):
        pairs = [of[a] - of[b] for a, b in zip(ancestry[first], ancestry[second], strict=True)]
        found[f"{first} - {second}"] = pd.concat(pairs, axis=1).mean(axis=1, skipna=False)
    return pd.DataFrame([{"effect": name, **over_targets(values.dropna(), level)} for name, values in found.items()])


def score_table(scores: pd.DataFrame, base: pd.DataFrame, data: pd.DataFrame) -> pd.DataFrame:
    """The scores with what is known of a source by itself: its own Dice and its training slices.

    Args:
        scores: net, target, source, score, value.
        base: of `base_measured_table`.
        data: ``data.csv``.
    """
    pairs = scores[["net", "target", "source"]].drop_duplicates()
    own = base[(base["split"] == "val") & (base["class"] == "mean")].set_index(["net", "model"])["dice"]
    slices = data[data["split"] == "train"].groupby("dataset")["slices"].max()
    dice = [own.get((net, source), np.nan) for net, source in zip(pairs["net"], pairs["source"], strict=True)]
    number = [slices[split_model(source)[0]] for source in pairs["source"]]
    more = [pairs.assign(score="source_dice", value=dice), pairs.assign(score="source_slices", value=number)]
    return pd.concat([scores, *more], ignore_index=True)


def larger_is_better(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores (columns score, value) with the sign of those changed of which smaller is better."""
    return scores.assign(value=scores["value"] * scores["score"].map(lambda score: SCORES[score][0]))


def ranking_over_targets(scores: pd.DataFrame, runs: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """How well each score ranks a target's sources by what they gain: Kendall's tau in each target, mean over targets.

    The interval over targets describes. What decides is an exact test that permutes the sources, the same way in all
    targets: a source that is good for one target tends to be good for the next, so that targets are not so many
    independent rankings.

    Args:
        scores: of `score_table`.
        runs: of `runs_table`.
        settings: level, resamples.

    Returns:
        net, score, tau, low, high (`t_interval` over targets), p (one-sided) and p_any (`corrected_tails`, for all
        scores), regret (Dice lost by taking the source that is ranked first rather than the best of all, mean over
        targets), n_targets, n_sources (at most, of one target, that the score knows).
    """
    found = []
    for net, test in of_sources(dice_of(runs)).groupby("net", sort=False):
        dice = test.pivot_table(index="target", columns="source", values="dice", sort=False)
        orders = permutations(dice.shape[1], settings.resamples, "study ranking", str(net))
        lines, means = [], []
        for score, own in larger_is_better(scores[scores["net"] == net]).groupby("score", sort=False):
            value = own.pivot_table(index="target", columns="source", values="value").reindex_like(dice)
            value = value.where(dice.notna())
            told = value[(value.count(axis=1) >= 3) & (value.min(axis=1) < value.max(axis=1))]
            if len(told):
                values, gained = told.to_numpy(), dice.loc[told.index].to_numpy()
                taus = np.array([kendall_tau(*of, orders) for of in zip(values, gained, strict=True)])
                chosen = np.take_along_axis(gained, np.nanargmax(values, axis=1)[:, None], axis=1)[:, 0]
                tau, low, high, n = over_targets(pd.Series(taus[:, 0]), settings.level).values()
                lines.append({
                    "net": net, "score": score, "tau": tau, "low": low, "high": high,
                    "regret": float(np.mean(np.nanmax(gained, axis=1) - chosen)), "n_targets": n,
                    "n_sources": int(told.count(axis=1).max()),
                })  # fmt: skip
                means.append(taus.mean(axis=0))
        for line, mean, p_any in zip(lines, means, corrected_tails(means), strict=True):
            found.append({**line, "p": tail_of(mean).above, "p_any": p_any})
    columns = ["net", "score", "tau", "low", "high", "p", "p_any", "regret", "n_targets", "n_sources"]
    return pd.DataFrame(found, columns=columns)


def study_answers(effects: pd.DataFrame, ancestry: pd.DataFrame, ranking: pd.DataFrame, level: float) -> pd.DataFrame:
    """One row per question: question, answer, statistic; the answer is the sign of an interval over targets.

    Whether some score ranks the sources is a permutation test, corrected for the number of scores.
    """
    rows = [
        (question, *_sign(effects, "contrast", name))
        for question, name in (
            ("Does a pretrained start gain over a random one?", "pretrained start - random start"),
            ("Does the best source gain over the pretrained start?", "best source on validation - pretrained start"),
            (
                "Does the verdict's list beat a random list of equal size? (fine-tuned)",
                f"verdict's list - {RANDOM}, finetune",
            ),
            (
                "Does the verdict's list beat a random list of equal size? (frozen)",
                f"verdict's list - {RANDOM}, freeze",
            ),
            ("Does the verdict's list beat reusing all? (fine-tuned)", "verdict's list - all, finetune"),
            ("Does the verdict's list beat reusing all? (frozen)", "verdict's list - all, freeze"),
        )
    ]
    if len(ancestry):
        rows.append(
            ("Does a common ancestor make kernels reusable?", *_sign(ancestry, "effect", ancestry["effect"][0]))
        )
        for effect in ancestry["effect"][1:]:
            first, _, second = effect.partition(" - ")
            rows.append(
                (f"Is {first} more reusable than {second}, at an equal encoder?", *_sign(ancestry, "effect", effect))
            )
    rows.append(("Does some score rank the sources?", *_some_score(ranking, level)))
    return pd.DataFrame(rows, columns=["question", "answer", "statistic"])


def _sign(table: pd.DataFrame, column: str, name: str) -> Answer:
    own = table[table[column] == name]
    if own.empty:
        return Answer(UNDECIDED, "no such runs")
    texts = [
        f"{Interval(r['value'], r['low'], r['high']):+.3f}, n = {r['n_targets']} targets" for _, r in own.iterrows()
    ]
    return Answer(decide((own["low"] > 0).all(), (own["high"] < 0).all()), f"{name}: {'; '.join(texts)}")


def _some_score(ranking: pd.DataFrame, level: float) -> Answer:
    """Holds if tau is above 0 for a score, by its permutation test corrected for the number of scores."""
    own = ranking[ranking["n_targets"] > 1]
    if own.empty:
        return Answer(UNDECIDED, "needs more targets and sources")
    row = own.iloc[int(own["p_any"].argmin())]
    text = (
        f"best of {len(own)}: {SCORES[row['score']][1]}, tau {Interval(row['tau'], row['low'], row['high']):.2f}, "
        f"p = {row['p_any']:.3f} corrected for their number, n = {row['n_targets']} targets, {row['n_sources']} sources"
    )
    return Answer(decide(row["p_any"] <= (1 - level) / 2, False), text)
