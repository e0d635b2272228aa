"""Verdicts: which (kind, layer) pairs of a source can be reused, and is the network reusable (an RN)?

The paper says "almost unchanged" without a number; tolerance, interval and the fraction that makes an
RN are ours and come from params (reconstruction).
"""

from __future__ import annotations

import pandas as pd

from prrmse.names import GROUP, PAIR_COLUMNS
from prrmse.settings import Verdict
from prrmse.tables.bootstrap import bootstrap_mean


def verdict_table(parts: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """One row per (net, target, source, kind, layer).

    The drop is the decrease of mean foreground Dice, averaged over seeds, then over patients; its interval
    a percentile bootstrap over patients, paired (each resample has the same patients before and after
    the swap). A pair is reusable if the drop (rule ``mean``) or the interval's upper end (``upper``)
    is at most ``tolerance``.

    Args:
        parts: net, target, source, seed, kind, layer, module, final, scalars, patient, dice, baseline;
            both are means over foreground structures.
        settings: tolerance, rule, level, resamples.
    """
    verdict = drops_table(parts, PAIR_COLUMNS, settings, "verdict")
    verdict["reusable"] = is_reusable(verdict, settings)
    return verdict


def drops_table(parts: pd.DataFrame, index: list[str], settings: Verdict, name: str) -> pd.DataFrame:
    """Mean drop with its interval: net, target, source, ``index``, drop, drop_low, drop_high, n_patients, n_seeds.

    Args:
        parts: net, target, source, seed, patient, dice, baseline and the columns of ``index``.
        index: what makes a row of one (net, target, source).
        settings: level, resamples.
        name: what the draws are for.
    """
    tables = []
    for key, group in parts.groupby(GROUP, sort=False):
        names = [str(part) for part in key]
        drops = drops_by_patient(group, index)
        table = mean_drops(drops, settings, name, *names)
        table["n_patients"], table["n_seeds"] = drops.shape[1], group["seed"].nunique()
        for column, value in zip(reversed(GROUP), reversed(names), strict=True):
            table.insert(0, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def drops_by_patient(parts: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """Drop in Dice, mean over seeds: rows are ``index``, columns patients.

    Args:
        parts: patient, dice, baseline and the columns of ``index``.
        index: what makes a row.
    """
    rows = parts.assign(drop=parts["baseline"] - parts["dice"])
    return rows.pivot_table(index=index, columns="patient", values="drop", sort=False)


def mean_drops(drops: pd.DataFrame, settings: Verdict, *identity: object) -> pd.DataFrame:
    """The index of ``drops`` (columns are patients) with drop, drop_low, drop_high: the mean and its interval."""
    table = drops.mean(axis=1).rename("drop").reset_index()
    table["drop_low"], table["drop_high"] = bootstrap_mean(drops.to_numpy(), settings, *identity)
    return table


def is_reusable(table: pd.DataFrame, settings: Verdict) -> pd.Series[bool]:
    """Whether each row of `mean_drops` is within the tolerance, by the rule of ``settings``."""
    return table["drop" if settings.rule == "mean" else "drop_high"] <= settings.tolerance


def is_untrained(dice: float, tolerance: float) -> bool:
    """Whether a target's own Dice is so low that hardly any drop exceeds the tolerance: at most twice that."""
    return dice <= 2 * tolerance


def network_table(verdict: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """One row per (net, target, source), and one per net over all sources (source ``all``).

    ``fraction_pairs`` and ``fraction_scalars`` are the shares of pairs and of scalars that are reusable,
    the final convolution left out; ``fraction_kernels`` the share of kernels (W), which decides
    ``is_rn`` against ``rn_fraction``. For ``all`` they are means over the sources.

    Args:
        verdict: of `verdict_table`.
        settings: rn_fraction.
    """
    rows = verdict[~verdict["final"]].copy()
    rows["reused_scalars"] = rows["scalars"] * rows["reusable"]
    grouped = rows.groupby(GROUP, sort=False)
    table = grouped.agg(n_pairs=("reusable", "count"), fraction_pairs=("reusable", "mean")).reset_index()
    table["fraction_scalars"] = (grouped["reused_scalars"].sum() / grouped["scalars"].sum()).to_numpy()
    kernels = rows[rows["kind"] == "W"].groupby(GROUP, sort=False)["reusable"].mean()
    table["fraction_kernels"] = kernels.to_numpy()
    fractions = ["fraction_pairs", "fraction_scalars", "fraction_kernels"]
    overall = table.groupby(["net", "target"], sort=False)[["n_pairs", *fractions]].mean().reset_index()
    overall.insert(2, "source", "all")
    overall["n_pairs"] = overall["n_pairs"].astype(int)
    table = pd.concat([table, overall], ignore_index=True)
    table["is_rn"] = table["fraction_kernels"] >= settings.rn_fraction
    return table
