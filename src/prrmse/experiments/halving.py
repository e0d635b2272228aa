"""Successive halving over short trainings: which source, reused how, is the best start for these patients (ours).

Every candidate is trained on the same folds, patients and batches, from the same initialisation, and predicts the
patients that it was not trained on. After each round the better half goes on from where it stopped, with twice the
steps (Jamieson and Talwalkar 2016). Two starts that need no source always go on: random kernels, and the network's own
pretrained weights where it has any. A gain is over the better of them. How a candidate is trained is not known here:
see `prrmse.search`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prrmse.names import MARGIN, OWN_STARTS, SCRATCH, USUAL_PLANS
from prrmse.seeding import derive_seed
from prrmse.tables.inference import Interval, corrected_interval

TRANSFER, NO_TRANSFER, UNDECIDED = "transfer", "do not transfer", "undecided"
COLUMNS = ["source", "plan", "round", "fold", "patient", "dice"]


class Candidate(NamedTuple):
    """A way to start a training.

    ``source``: a name, or one of `prrmse.names.OWN_STARTS`, which have no plan. ``plan``: what of the source stays
    fixed, of which all but the final convolution is reused: nothing (``finetune``), the first half of the layers
    (``half``), the first N (``firstN``), all (``head``), all in the first round and nothing later (``probe``: Kumar
    et al. 2022, LP-FT), all but one of three blocks (``early``, ``middle``, ``late``: Lee et al. 2023, surgical
    fine-tuning).
    """

    source: str
    plan: str

    def __str__(self) -> str:
        return f"{self.source} {self.plan}".strip()


# Trains a candidate in a fold for a round, on from the round before, and gives the Dice of the fold's patients; None
# ends the search.
Measure = Callable[[Candidate, int, int], Mapping[str, float] | None]


def candidates_of(
    sources: Sequence[str], plans: Sequence[str] = USUAL_PLANS, *, pretrained: bool = False
) -> list[Candidate]:
    """The network's own starts, with pretrained weights or without any; then every source by every plan."""
    own = OWN_STARTS if pretrained else (SCRATCH,)
    return [
        *(Candidate(start, "") for start in own),
        *(Candidate(source, plan) for source in sources for plan in plans),
    ]


def default_of(ranking: pd.DataFrame) -> str:
    """The start that gains are over: the better one of the network's own.

    Args:
        ranking: of `ranking_of`, best first.
    """
    return str(ranking.loc[ranking["source"].isin(OWN_STARTS), "source"].iloc[0])


def folds_of(patients: Sequence[str], folds: int, seed: int) -> list[list[str]]:
    """The patients in random groups of nearly equal size, each to be held out once."""
    rng = np.random.default_rng(derive_seed("folds", seed))
    order = rng.permutation(np.array(sorted(patients)))
    return [sorted(map(str, order[i::folds])) for i in range(folds)]


def steps_until(round_: int, rounds: int, steps: int) -> int:
    """Steps of a training up to the end of a round: all of them in the last, half as many in each before."""
    return max(steps >> (rounds - 1 - round_), 1)


def halve(
    candidates: Sequence[Candidate],
    folds: int,
    rounds: int,
    measure: Measure,
    *,
    level: float = 0.95,
    least: int = 1,
) -> pd.DataFrame:
    """Train, drop the worse half, train the rest further.

    Args:
        candidates: of `candidates_of`.
        folds: into which the patients are split.
        rounds: at most.
        measure: trains and measures one candidate in one fold. Where it ends the search, a round that is not complete
            is left out, but in the first the folds that are.
        level: at which an answer is given (`answer_of`), after which nothing is trained.
        least: rounds before an answer may end it.

    Returns:
        One row for each (candidate, round, patient): `COLUMNS`.
    """
    alive = list(candidates)
    settled = sum(c.source in OWN_STARTS for c in candidates) + 1
    rows: list[dict[str, object]] = []
    for round_ in range(rounds):
        made: list[dict[str, object]] = []
        for fold in range(folds):
            complete = len(made)
            for candidate in alive:
                found = measure(candidate, fold, round_)
                if found is None:
                    return _table(rows + (made[:complete] if not round_ else []))
                named = {**candidate._asdict(), "round": round_, "fold": fold}
                made += [{**named, "patient": patient, "dice": dice} for patient, dice in found.items()]
        rows += made
        table = _table(rows)
        alive = _better_half(table[table["round"] == round_], alive)
        is_answered = answer_of(ranking_of(table, len(candidates), level)) != UNDECIDED
        if is_answered and len(alive) <= settled and round_ + 1 >= least:
            break
    return _table(rows)


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"round": int, "fold": int, "dice": float})


def _better_half(rows: pd.DataFrame, alive: Sequence[Candidate]) -> list[Candidate]:
    means = rows.groupby(["source", "plan"], sort=False)["dice"].mean()
    others = sorted((c for c in alive if c.source not in OWN_STARTS), key=lambda c: -float(means[c.source, c.plan]))
    return [*(c for c in alive if c.source in OWN_STARTS), *others[: math.ceil(len(others) / 2)]]


def ranking_of(rows: pd.DataFrame, candidates: int, level: float = 0.95) -> pd.DataFrame:
    """Every candidate by what it reached, those that were trained longest first.

    Args:
        rows: of `halve`.
        candidates: how many there were: the intervals are wider for it (Bonferroni), since the best is the best of all.
        level: of all intervals together.

    Returns:
        source, plan, round (its last), dice (mean over patients), gain over the default start (`default_of`) trained
        for as many steps, gain_low, gain_high (`corrected_interval` over folds), n_folds, n_patients.
    """
    if rows.empty:
        names = ["source", "plan", "round", "dice", "gain", "gain_low", "gain_high", "n_folds", "n_patients"]
        return pd.DataFrame(columns=names)
    each = 1 - (1 - level) / max(candidates - 1, 1)
    by_patient = rows.set_index(["source", "plan", "round", "fold", "patient"])["dice"]
    of: dict[Any, Any] = {
        key: group.droplevel([0, 1, 2]) for key, group in by_patient.groupby(level=[0, 1, 2], sort=False)
    }
    last = rows.groupby(["source", "plan"], sort=False)["round"].max()
    own_starts = rows[rows["source"].isin(OWN_STARTS) & (rows["round"] == rows["round"].max())]
    default = own_starts.groupby("source", sort=False)["dice"].mean().idxmax()
    found = []
    for candidate, round_ in zip(last.index, last, strict=True):
        source, plan = candidate
        paired = (of[source, plan, round_] - of[default, "", round_]).dropna()  # patients that both have
        differences = paired.groupby(level="fold").mean().to_numpy()
        gain = corrected_interval(differences, each) if source != default else Interval(0.0, math.nan, math.nan)
        own = rows[(rows["source"] == source) & (rows["plan"] == plan) & (rows["round"] == round_)]
        found.append((source, plan, round_, own["dice"].mean(), *gain, len(differences), own["patient"].nunique()))
    names = ["source", "plan", "round", "dice", "gain", "gain_low", "gain_high", "n_folds", "n_patients"]
    table = pd.DataFrame(found, columns=names)
    return table.sort_values(["round", "dice"], ascending=False, kind="stable").reset_index(drop=True)


def from_sources(ranking: pd.DataFrame) -> pd.DataFrame:
    """The rows of candidates that start from a source."""
    return ranking[~ranking["source"].isin(OWN_STARTS)]


def answer_of(ranking: pd.DataFrame) -> str:
    """Whether to transfer, by the best candidate that starts from a source.

    `TRANSFER` if its gain lies above 0, `NO_TRANSFER` if the gains of all candidates lie below `MARGIN`, by their
    intervals; else `UNDECIDED`.
    """
    others = from_sources(ranking)
    if others.empty:
        return UNDECIDED
    if others.iloc[0]["gain_low"] > 0:
        return TRANSFER
    return NO_TRANSFER if (others["gain_high"] < MARGIN).all() else UNDECIDED
