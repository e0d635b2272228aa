"""Does what is measured of a source predict what it gains? Realised gains, rank correlations, intervals (ours).

A source is a base model of one seed. Its gain is the Dice of the target trained from it, less that of the target
trained from its own initialisation, with the same patients and the same order of batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from prrmse.seeding import derive_seed
from prrmse.settings import Verdict
from prrmse.tables.bootstrap import interval
from prrmse.tables.inference import (
    concordance,
    corrected_tails,
    correlation_interval,
    crossed_interval,
    mean_of,
    permutations,
    tail_of,
)

SOURCE = ["source", "source_seed"]
NO_SOURCE = "none"

# Every score that ranks sources: its sign (1: larger is better) and its name in figures.
SCORES = {
    "swap": (-1, "drop in Dice, one kernel swapped (PR-RMSE 1)"),
    "rmse": (-1, "RMSE (PR-RMSE 2)"),
    "rmse_relative": (-1, "RMSE, relative"),
    "rmse_folded": (-1, "RMSE, BN folded"),
    "rmse_aligned": (-1, "RMSE, aligned"),
    "rmse_folded_aligned": (-1, "RMSE, folded and aligned"),
    "rmse_weighted": (-1, "RMSE, weighted by activations"),
    "distance_ratio": (1, "ratio to the distance from initialisation"),
    "task_cosine": (1, "cosine of the displacements"),
    "cka": (1, "linear CKA"),
    "logme": (1, "LogME"),
    "leep": (1, "LEEP"),
    "h_score": (1, "H-score"),
    "gbc": (1, "GBC"),
    "gbc_diagonal": (1, "GBC, diagonal"),
    "gbc_code": (1, "GBC, authors' code"),
    "cc_fv": (1, "CC-FV"),
    "cc_fv_code": (1, "CC-FV, authors' code"),
    "source_dice": (1, "the source's own Dice"),
    "source_slices": (1, "training slices of the source"),
    "distance_from_initialisation": (1, "distance from its own initialisation"),
}
# Those that compare the source with a trained target; the others need its images and labels at most.
OF_TRAINED_TARGET = {name for name in SCORES if name.startswith("rmse")} | {
    "swap",
    "distance_ratio",
    "task_cosine",
    "cka",
}


def gain_values(parts: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Gains by source, run and patient.

    Args:
        parts: net, arm, source, source_seed, seed, patient, dice (mean foreground) of every run; source ``none`` began
            at the target's own initialisation.

    Returns:
        One row per (net, arm, source, source_seed); and gains ``[rows, runs, patients]``, NaN where there is none.
    """
    values = parts.pivot_table(index=["net", "arm", *SOURCE], columns=["seed", "patient"], values="dice", sort=False)
    seeds, patients = (values.columns.unique(level) for level in ("seed", "patient"))
    values = values.reindex(columns=pd.MultiIndex.from_product([seeds, patients]))
    rows = values.index.to_frame(index=False)
    own = ((rows["source"] == NO_SOURCE) & (rows["arm"] == "finetune")).to_numpy()
    array = values.to_numpy().reshape(len(rows), len(seeds), len(patients))
    base = {net: array[own & (rows["net"] == net).to_numpy()][0] for net in rows["net"].unique()}
    gains = np.stack([array[i] - base[net] for i, net in enumerate(rows["net"])])
    return rows[~own].reset_index(drop=True), gains[~own]


def resampled_gains(gains: np.ndarray, resamples: int) -> np.ndarray:
    """Means over runs and patients, both resampled: ``[rows, resamples]``."""
    rng = np.random.default_rng(derive_seed("gain"))
    runs, patients = (rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64) for n in gains.shape[1:])
    known = np.isfinite(gains).astype(np.float64)
    total, count = (
        np.einsum("irp,br,bp->ib", values, runs, patients, optimize=True)
        for values in (np.where(known > 0, gains, 0.0), known)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        means: np.ndarray = total / count
    return means


def gain_table(rows: pd.DataFrame, gains: np.ndarray, level: float) -> pd.DataFrame:
    """Each source's mean gain with its interval over runs and patients (`crossed_interval`).

    Args:
        rows, gains: of `gain_values`.
        level: of the interval.

    Returns:
        ``rows`` with gain, gain_low, gain_high, gain_sd (over runs), n_runs, n_patients.
    """
    intervals = [crossed_interval(mean_of, own, level) for own in gains]
    by_run = np.nanmean(gains, axis=2)
    spread = by_run.std(axis=1, ddof=1) if gains.shape[1] > 1 else np.full(len(gains), np.nan)
    return rows.assign(
        gain=[i.value for i in intervals], gain_low=[i.low for i in intervals], gain_high=[i.high for i in intervals],
        gain_sd=spread, n_runs=gains.shape[1], n_patients=gains.shape[2],
    )  # fmt: skip


def ranking_table(scores: pd.DataFrame, rows: pd.DataFrame, gains: np.ndarray, settings: Verdict) -> pd.DataFrame:
    """How well each score ranks the sources by their gain.

    Weighted Kendall tau (Vigna 2015, as is the custom for such scores): 1 the same order, 0 none, the best sources
    counting most. Its interval resamples base models with all their seeds (seeds of one model are alike), runs and
    patients: it describes. What decides are p values of Kendall's tau, exact under the null that gains are exchangeable
    between base models: these change places, each with all its seeds. ``p_any`` is corrected for there being many
    scores (Westfall and Young 1993: compared with the smallest p of all scores under each permutation).

    Args:
        scores: net, source, source_seed, score, value.
        rows, gains: of `gain_values`.
        settings: level, resamples.

    Returns:
        One row per (net, arm, score): tau, tau_low, tau_high, p_above and p_below (one-sided), p_any, regret (gain of
        the best source less that of the source ranked first), n_sources, n_models.
    """
    means = resampled_gains(gains, settings.resamples)
    found = []
    for (net, arm), group in rows[rows["source"] != NO_SOURCE].groupby(["net", "arm"], sort=False):
        own_scores = scores[scores["net"] == net]
        tables = []
        for score, (sign, _) in SCORES.items():
            of = own_scores[own_scores["score"] == score].set_index(SOURCE)["value"].dropna()
            own = group[[key in of.index for key in zip(*(group[c] for c in SOURCE), strict=True)]]
            value = sign * of.loc[list(zip(*(own[c] for c in SOURCE), strict=True))].to_numpy(float)
            gain = np.nanmean(gains[own.index], axis=(1, 2))
            low, high = _interval(value, own, means, settings.level, str(net), str(arm), score)
            found.append({
                "net": net, "arm": arm, "score": score, "tau": weighted_tau(value, gain), "tau_low": low,
                "tau_high": high, "regret": gain.max() - gain[value.argmax()] if len(own) else np.nan,
                "n_sources": len(own), "n_models": own["source"].nunique(),
            })  # fmt: skip
            tables.append(pd.Series(value, index=pd.MultiIndex.from_frame(own[SOURCE])))
        gained = pd.Series(np.nanmean(gains[group.index], axis=(1, 2)), index=pd.MultiIndex.from_frame(group[SOURCE]))
        for row, p in zip(
            found[-len(SCORES) :], permutation_tests(tables, gained, settings, str(net), str(arm)), strict=True
        ):
            row |= p
    return pd.DataFrame(found)


def permutation_tests(
    scores: Sequence[pd.Series], gain: pd.Series, settings: Verdict, *identity: str
) -> list[dict[str, float]]:
    """p_above, p_below, p_any of each score, of Kendall's tau with the gain, by permuting base models.

    Args:
        scores: each by (source, source_seed), larger is better; sources may be missing.
        gain: by (source, source_seed).
        settings: resamples.
        identity: what the draws are for.
    """
    gained = gain.unstack().dropna(axis=1)  # [models, seeds]; a seed that some model lacks cannot change places
    models, seeds = gained.shape
    orders = permutations(models, settings.resamples, "ranking", *identity)
    orders = (orders[:, :, None] * seeds + np.arange(seeds)).reshape(len(orders), -1)  # of (model, seed)
    taus = []
    for score in scores:
        value = score.unstack().reindex(index=gained.index, columns=gained.columns).to_numpy().ravel()
        known = np.isfinite(value)
        taus.append(concordance(value[known], gained.to_numpy().ravel(), orders[:, known]))
    told = [len(set(score)) > 1 for score in scores]
    corrected = iter(corrected_tails([own for own, known in zip(taus, told, strict=True) if known]))
    found = []
    for own, known in zip(taus, told, strict=True):
        above, below, p_any = (*tail_of(own), next(corrected)) if known else (np.nan, np.nan, np.nan)
        found.append({"p_above": above, "p_below": below, "p_any": p_any})
    return found


def weighted_tau(value: np.ndarray, gain: np.ndarray) -> float:
    """scipy's weighted Kendall tau; NaN for fewer than three sources or a score that is the same for all."""
    if len(value) < 3 or len(set(value)) < 2 or len(set(gain)) < 2:
        return float("nan")
    return float(stats.weightedtau(value, gain).statistic)


def _interval(
    value: np.ndarray, own: pd.DataFrame, means: np.ndarray, level: float, *identity: object
) -> tuple[float, float]:
    rng = np.random.default_rng(derive_seed("ranking", *identity))
    members = [np.flatnonzero((own["source"] == name).to_numpy()) for name in own["source"].unique()]
    taus = []
    resamples = means.shape[1]
    for resample in range(resamples if len(members) > 2 else 0):
        chosen = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        taus.append(weighted_tau(value[chosen], means[own.index[chosen], resample]))
    if np.isfinite(taus).sum() < resamples // 2 or not taus:
        return float("nan"), float("nan")
    low, high = interval(np.array(taus), level)
    return float(low), float(high)


def all_scores(scores: pd.DataFrame, base: pd.DataFrame, data: pd.DataFrame) -> pd.DataFrame:
    """The scores of every source, with those that need no computation: its own Dice, how much it was trained on.

    Args:
        scores: net, source, source_seed, score, value.
        base: ``base.csv``.
        data: ``data.csv``.
    """
    sources = scores[["net", *SOURCE]].drop_duplicates()
    own = base[base["class"] == "mean"].rename(columns={"model": "source", "seed": "source_seed", "dice": "value"})
    dice = sources.merge(own[["net", *SOURCE, "value"]], how="left").assign(score="source_dice")
    slices = data[data["split"] == "train"].groupby("dataset")["slices"].first()
    size = sources.assign(value=sources["source"].str.rpartition("-")[0].map(slices), score="source_slices")
    return pd.concat([scores, dice, size], ignore_index=True)[["net", *SOURCE, "score", "value"]]


def random_drops(controls: pd.DataFrame) -> pd.DataFrame:
    """Drop in Dice from a random kernel in each layer: net, layer, drop_random; mean over targets, seeds, patients.

    Args:
        controls: rows of sweeps of the control ``random``.
    """
    rows = controls[(controls["class"] == "mean") & (controls["kind"] == "W")]
    rows = rows.assign(drop_random=rows["baseline"] - rows["dice"])
    return rows.groupby(["net", "layer"], sort=False)["drop_random"].mean().reset_index()


def seconds_table(scores: pd.DataFrame, gains: pd.DataFrame) -> pd.DataFrame:
    """The cost of scoring one source, and of training from it: net, work, seconds (mean), share, n.

    ``share`` is of one fine-tuning. LogME, H-score, GBC, LEEP and CC-FV need ``features`` too; ``similarity`` is all
    distances and CKA. On one machine in one run; other jobs may have run at the same time.

    Args:
        scores, gains: net, score (or arm), seconds of every job.
    """
    rows = pd.concat([scores.rename(columns={"score": "work"}), gains.rename(columns={"arm": "work"})])
    table = rows.groupby(["net", "work"], sort=False)["seconds"].agg(["mean", "count"]).reset_index()
    table.columns = pd.Index(["net", "work", "seconds", "n"])
    whole = table[table["work"] == "finetune"].set_index("net")["seconds"]
    table.insert(3, "share", table["seconds"] / table["net"].map(whole))
    return table


def layer_correlations(layers: pd.DataFrame, random_drops: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """Does a layer's distance predict the drop from swapping its kernel? Spearman over kernels, mean over sources.

    Signs are such that 1 means: the larger the distance (the smaller the similarity), the larger the drop.
    ``drop_random`` is the drop from a random kernel in the same layer: the baseline, which does not depend
    on the source. Intervals are over kernels (`correlation_interval`): the sources share one network, whose layers are
    few, and another set of layers could give another correlation, however many sources there are.

    Args:
        layers: net, source, source_seed, layer, module, final, drop and a column for each measure.
        random_drops: net, layer, drop_random.
        settings: level.

    Returns:
        One row per (net, measure): rho, rho_low, rho_high, n_sources, n_models, n_kernels.
    """
    rows = layers[~layers["final"]].merge(random_drops, on=["net", "layer"], how="left")
    measures = {name: -sign for name, (sign, _) in SCORES.items() if name in rows} | {"drop_random": 1}
    found = []
    for net, group in rows.groupby("net", sort=False):
        for measure, sign in measures.items():
            by_source = {
                key: _spearman(sign * own[measure], own["drop"]) for key, own in group.groupby(SOURCE, sort=False)
            }
            by_model = pd.Series(by_source).groupby(level=0).mean().dropna()
            kernels = group["layer"].nunique()
            rho, low, high = correlation_interval(float(by_model.mean()), kernels, settings.level)
            found.append({
                "net": net, "measure": measure, "rho": rho, "rho_low": low, "rho_high": high,
                "n_sources": len(by_source), "n_models": len(by_model), "n_kernels": kernels,
            })  # fmt: skip
    return pd.DataFrame(found)


def _spearman(a: pd.Series, b: pd.Series) -> float:
    known = a.notna() & b.notna()
    if known.sum() < 3 or a[known].nunique() < 2 or b[known].nunique() < 2:
        return float("nan")
    return float(stats.spearmanr(a[known], b[known]).statistic)
