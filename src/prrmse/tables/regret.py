"""What a way to choose a start costs, and what it loses against the best of all starts (ours).

The regret of a choice is the test Dice of the best start less that of the chosen one, both fully trained. The best of
many single trainings looks better than it is, so that the regret of any choice, the right one too, has a positive mean;
ways are therefore compared with each other, on the same trainings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from prrmse.names import MARGIN, OWN_STARTS, PRETRAINED, SCRATCH
from prrmse.seeding import derive_seed
from prrmse.settings import Verdict
from prrmse.tables.bootstrap import interval
from prrmse.tables.inference import weighted_auroc
from prrmse.tables.means import mean_over_patients
from prrmse.tables.ranking import OF_TRAINED_TARGET, SCORES
from prrmse.tables.study import larger_is_better, of_starts, over_targets

RUN = ["net", "target", "seed"]
# At most this share of the cost of training from every start is what a search may spend.
SHARE = 0.25
SEARCH, SCORE = "search", "score: "
ALL, ANY_SOURCE, ANY = "train all, choose on validation patients", "any source (mean)", "any start (mean)"
# How a search tells whether a source is worth it.
ORDER, GAIN = "search: rounds survived, then gain", "search: gain in its last round"


def search_table(parts: pd.DataFrame) -> pd.DataFrame:
    """Each candidate of each search by round: dice, dice_sd over held-out patients, n_patients, n_folds.

    Args:
        parts: rows of `prrmse.search.Search.curves` with `RUN` and ``full``, the steps of a full training.
    """
    keys = [*RUN, "full", "source", "round", "steps"]
    folds = parts.groupby(keys, sort=False)["fold"].nunique().rename("n_folds").reset_index()
    return mean_over_patients(parts, keys).merge(folds, on=keys)


def regrets(search: pd.DataFrame, scores: pd.DataFrame, runs: pd.DataFrame, level: float) -> pd.DataFrame:
    """Regret and cost of every way to choose, over targets.

    Args:
        search: of `search_table`.
        scores: of `prrmse.tables.study.score_table`.
        runs: of `prrmse.tables.study.runs_table`.
        level: of the intervals.

    Returns:
        net, way, cost (trained steps as a share of those of training from every start, mean over targets; a score's own
        computation is not counted, but one training where it compares with a trained target), regret (mean over
        targets), low, high, worst (largest of a target), more (regret less that of the search within `SHARE`, paired),
        more_low, more_high, n_targets; by regret.
    """
    rows = pd.DataFrame(_choices(search, scores, runs), columns=[*RUN, "way", "cost", "regret"])
    lines: list[dict[str, Any]] = []
    for net, own in rows.groupby("net", sort=False):
        regret = own.pivot_table(index="target", columns="way", values="regret")
        costs = own.pivot_table(index="target", columns="way", values="cost").mean()
        within = costs[costs.index.str.startswith(SEARCH) & (costs <= SHARE)]
        reference = str(within.idxmax()) if len(within) else None
        for way in map(str, costs.index):
            found = over_targets(regret[way].dropna(), level)
            line = {"net": net, "way": way, "cost": costs[way], "regret": found.pop("value"), **found}
            line["worst"] = regret[way].max()
            if reference is not None and way != reference:
                more = over_targets((regret[way] - regret[reference]).dropna(), level)
                line |= {"more": more["value"], "more_low": more["low"], "more_high": more["high"]}
            lines.append(line)
    columns = ["net", "way", "cost", "regret", "low", "high", "worst", "more", "more_low", "more_high", "n_targets"]
    table = pd.DataFrame(lines, columns=columns)
    return table.sort_values(["net", "regret"], kind="stable").reset_index(drop=True)


def no_transfer(search: pd.DataFrame, runs: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """Does a search tell the sources that are not worth their trouble? Every source of every target is one case.

    What is true is whether the source's full training gains more than `MARGIN` over that from the network's own start,
    on the test patients. It is told by one of

    - `ORDER`: the round to which the search kept the source, and among those of one round its gain in it;
    - `GAIN`: its gain in that round alone, whichever round it was;
    - `ALL`: the gain of the full training itself, on the validation patients, which no search can be expected to beat.

    Args:
        search: of `search_table`.
        runs: of `prrmse.tables.study.runs_table`.
        settings: resamples and level of the interval.

    Returns:
        net, start (the network's own), told_by, seeds (all, then each of several), n_cases, n_worth (of which the truth
        is a gain), auroc (of what is told for what is true: 0.5 for a guess; NaN where all or none are worth it), low,
        high (resampling targets), n_targets.
    """
    lines = []
    for net, own in search.groupby("net", sort=False):
        start = PRETRAINED if PRETRAINED in set(own["source"]) else SCRATCH
        cases = _cases(own, runs, start)
        of_seed = dict(list(cases.groupby("seed")))
        # Each seed alone, too: a way to tell that was looked for on one of them is tested by the others.
        parts = {", ".join(map(str, of_seed)): cases} | ({str(s): of for s, of in of_seed.items()})
        for seeds, part in parts.items():
            of_target, targets = pd.factorize(part["target"])
            worth, number = (part["true"] > MARGIN).to_numpy(), len(targets)
            rng = np.random.default_rng(derive_seed("no transfer", net))
            draws = rng.integers(0, number, (settings.resamples, number))
            # How often each case is in each sample of targets; first as they are.
            often = np.stack([(draws == target).sum(1) for target in range(number)], axis=1)[:, of_target]
            weights = np.vstack([np.ones_like(of_target), often])
            for told_by in (ORDER, GAIN, ALL):
                auroc, *samples = weighted_auroc(part[told_by].to_numpy(), worth, weights)
                found = (auroc, *interval(np.array(samples), settings.level))
                lines.append((net, start, told_by, seeds, len(part), int(worth.sum()), *found, number))
    columns = ["net", "start", "told_by", "seeds", "n_cases", "n_worth", "auroc", "low", "high", "n_targets"]
    return pd.DataFrame(lines, columns=columns)


def _cases(search: pd.DataFrame, runs: pd.DataFrame, default: str) -> pd.DataFrame:
    """Target, source, its true gain over the default start, and what is told of it in each way."""
    keys = ["net", "target", "seed"]
    own = search[search["source"] == default].set_index([*keys, "round"])["dice"].rename("default")
    others = search[~search["source"].isin(OWN_STARTS)].join(own, on=[*keys, "round"]).dropna(subset="default")
    last = others.sort_values("round", kind="stable").groupby([*keys, "source"], sort=False).last().reset_index()
    gain = last["dice"] - last["default"]
    # A gain is less than 1, so that it orders within a round only.
    cases = last[[*keys, "source"]].assign(**{ORDER: last["round"] + gain / 2, GAIN: gain})
    for name, split in (("true", "test"), (ALL, "val")):
        dice = of_starts(runs, split).set_index([*keys, "source"])["dice"]
        gained = dice - dice.xs(default, level="source")
        cases = cases.join(gained.rename(name), on=[*keys, "source"])
    return cases.dropna(subset=["true", ALL]).reset_index(drop=True)


def _choices(search: pd.DataFrame, scores: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[object, ...]]:
    """Net, target, seed, way, cost and regret of each choice that was made."""
    test, val = of_starts(runs), of_starts(runs, "val")
    signed = larger_is_better(scores)
    key: Any
    for key, own in test.groupby(RUN, sort=False):
        dice = dict(zip(own["source"], own["dice"], strict=True))
        best, everywhere = max(dice.values()), float(own["dice"].mean())
        yield (*key, ALL, 1.0, best - dice[_first(_of_run(val, key), "dice")])
        for start in (SCRATCH, PRETRAINED):
            if start in dice:
                yield (*key, f"always {start}", 0.0, best - dice[start])
        sources = own.loc[~own["source"].isin(OWN_STARTS), "dice"]
        yield (*key, ANY_SOURCE, 0.0, best - float(sources.mean()))
        yield (*key, ANY, 0.0, best - everywhere)
        told = signed[(signed["net"] == key[0]) & (signed["target"] == key[1])].dropna(subset=["value"])
        for score in told["score"].unique():
            by_score = told[told["score"] == score]
            if by_score["value"].min() < by_score["value"].max():
                cost = 1 / len(dice) if score in OF_TRAINED_TARGET else 0.0
                yield (*key, f"{SCORE}{SCORES[score][1]}", cost, best - dice[_first(by_score, "value")])
        searched, spent, before, pick = _of_run(search, key), 0, 0, ""
        if searched.empty:
            continue
        for number in range(int(search["round"].max()) + 1):
            found = searched[searched["round"] == number]
            if len(found):  # else it had its answer before, and spends nothing more
                spent += (int(found["steps"].max()) - before) * int(found["n_folds"].sum())
                before, pick = int(found["steps"].max()), _first(found, "dice")
            share = spent / (len(dice) * int(searched["full"].max()))
            yield (*key, f"{SEARCH}, {number + 1} rounds", share, best - dice[pick])


def _of_run(table: pd.DataFrame, key: tuple[Any, ...]) -> pd.DataFrame:
    return table[(table[RUN] == list(key)).all(axis=1)]


def _first(rows: pd.DataFrame, column: str) -> str:
    """The source with the largest value."""
    return str(rows["source"].to_numpy()[rows[column].to_numpy().argmax()])
