"""Means over patients: the tables base, swap and transfer."""

from __future__ import annotations

import pandas as pd

from prrmse.names import PAIR_COLUMNS


def mean_over_patients(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean, SD and number of patients of ``dice`` for each group, in order of appearance."""
    grouped = table.groupby(by, sort=False)["dice"]
    return grouped.agg(dice="mean", dice_sd="std", n_patients="count").reset_index()


def base_table(parts: pd.DataFrame) -> pd.DataFrame:
    """The contract's ``base.csv``: means over patients.

    Args:
        parts: net, model, seed, patient, class and ``dice`` or ``mse`` (NaN where it does not apply).
    """
    keys = ["net", "model", "seed", "class"]
    table = mean_over_patients(parts, keys).drop(columns="n_patients")
    mse = parts.groupby(keys, sort=False).agg(
        mse=("mse", "mean"), mse_sd=("mse", "std"), n_patients=("patient", "nunique")
    )
    return table.merge(mse.reset_index(), on=keys, sort=False)


def swap_table(parts: pd.DataFrame) -> pd.DataFrame:
    """The contract's ``swap.csv``: means over patients.

    Args:
        parts: rows of `swap_experiment` with net, target, source and seed in front.
    """
    keys = ["net", "target", "source", "seed", *PAIR_COLUMNS, "class"]
    means = mean_over_patients(parts, keys)
    baseline = parts.groupby(keys, sort=False)["baseline"].mean().reset_index()
    return means.merge(baseline, on=keys, sort=False)


def transfer_table(parts: pd.DataFrame) -> pd.DataFrame:
    """The contract's ``transfer.csv``: means over patients.

    Args:
        parts: net, samples, arm, source, seed, patient, class, dice, n_train, pairs_reused.
    """
    return mean_over_patients(parts, ["net", "samples", "arm", "source", "seed", "n_train", "pairs_reused", "class"])
