"""Real swaps and their controls (ours, not the paper's): tables and their summary."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from prrmse.names import CONTROLS, GROUP, PAIR_COLUMNS
from prrmse.settings import Verdict
from prrmse.tables.bootstrap import bootstrap_mean
from prrmse.tables.inference import crossed_array, crossed_interval, mean_of
from prrmse.tables.verdict import drops_by_patient


def relative_table(swaps: pd.DataFrame, controls: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """Each pair's drop and its controls', by network, target, source, kind and layer.

    Args:
        swaps: rows of the verdict's input (`prrmse.tables.verdict.verdict_table`).
        controls: the same of the controls, whose name is in ``source``.
        settings: level, resamples, tolerance of ``verdict``.

    Returns:
        drop; drop_random, drop_seed, drop_noise (noise at this source's distance); ``excess``: drop minus that of the
        second seed, patient by patient, with its bootstrap interval; ``equivalent``: the interval's upper end is at
        most the tolerance; ``reuse``: 1 - drop / drop_random where drop_random exceeds the tolerance, else NaN;
        n_patients, n_seeds.
    """
    names: list[Hashable] = [*GROUP]
    real, known = (drops_by_patient(rows, [*GROUP, *PAIR_COLUMNS]) for rows in (swaps, controls))
    tables = []
    for key, rows in real.groupby(level=GROUP, sort=False):
        net, target, source = (str(part) for part in key)
        own = rows.droplevel(names).dropna(axis=1, how="all")  # without the patients of other targets
        table = own.mean(axis=1).rename("drop").reset_index()
        of = {name: _control(known, net, target, name, own) for name in ("random", "seed", f"noise-{source}")}
        for name, values in of.items():
            table[f"drop_{name.partition('-')[0]}"] = values.mean(axis=1).to_numpy()
        excess = (own - of["seed"]).to_numpy()
        table["excess"] = excess.mean(axis=1)
        table["excess_low"], table["excess_high"] = (
            bootstrap_mean(excess, settings, "evidence", *key) if np.isfinite(excess).any() else (np.nan, np.nan)
        )
        fits = table["excess_high"] <= settings.tolerance
        table["equivalent"] = fits.astype(object).where(table["excess_high"].notna(), None)
        harmful = table["drop_random"] > settings.tolerance
        table["reuse"] = np.where(harmful, 1 - table["drop"] / table["drop_random"], np.nan)
        table["n_patients"], table["n_seeds"] = own.shape[1], swaps["seed"].nunique()
        for column, value in zip(reversed(GROUP), (source, target, net), strict=True):
            table.insert(0, column, value)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _control(drops: pd.DataFrame, net: str, target: str, name: str, like: pd.DataFrame) -> pd.DataFrame:
    """The control's drops in the order of ``like``; NaN where it was not swept."""
    level: list[Hashable] = [*GROUP]
    names = drops.index.to_frame(index=False)
    chosen = ((names["net"] == net) & (names["target"] == target) & (names["source"] == name)).to_numpy()
    return drops[chosen].droplevel(level).reindex(index=like.index, columns=like.columns)


def control_summary(controls: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """Each control in a line: net, control, mean and largest drop of W and of the statistics, share within tolerance.

    ``drop_kernels_low`` and ``_high``: interval over seeds and patients (`crossed_interval`; of the control ``seed``,
    whose seeds are compared in a circle, ``cyclic``).

    Args:
        controls: rows of sweeps, the control's name in ``source``.
        settings: tolerance, level of ``verdict``.
    """
    tolerance = settings.tolerance
    seeds_patients = controls[(controls["kind"] == "W") & ~controls["final"].astype(bool)]
    seeds_patients = seeds_patients.assign(drop=seeds_patients["baseline"] - seeds_patients["dice"])
    drops = drops_by_patient(controls, [*GROUP, *PAIR_COLUMNS]).mean(axis=1).rename("drop").reset_index()
    drops = drops[~drops["final"]]
    rows = []
    for (net, control), group in drops.groupby(["net", "source"], sort=False):
        kernels = group[group["kind"] == "W"]["drop"]
        statistics = group[group["kind"].isin(["RM", "RV"])]["drop"]
        own = seeds_patients[(seeds_patients["net"] == net) & (seeds_patients["source"] == control)]
        found = crossed_interval(mean_of, crossed_array(own, []), settings.level, cyclic=control == "seed")
        rows.append({
            "net": net, "control": control,
            "drop_kernels": kernels.mean(), "drop_kernels_low": found.low, "drop_kernels_high": found.high,
            "largest_drop_kernels": kernels.max(), "drop_statistics": statistics.mean(),
            "fraction_reusable": (group["drop"] <= tolerance).mean(), "n_pairs": len(group),
            "n_seeds": controls["seed"].nunique(), "n_patients": controls["patient"].nunique(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def ranked(names: Sequence[str]) -> list[str]:
    """Controls in the order of `CONTROLS`, then the noises."""
    return sorted(names, key=lambda name: (CONTROLS.index(name) if name in CONTROLS else len(CONTROLS), name))


def source_summary(relative: pd.DataFrame) -> pd.DataFrame:
    """Each source in a line: its kernels and their controls, and the share of pairs no worse than another seed's.

    Args:
        relative: of `relative_table`.
    """
    rows = relative[~relative["final"]]
    lines = []
    for (net, source), group in rows.groupby(["net", "source"], sort=False):
        own, known = group[group["kind"] == "W"], group["equivalent"].dropna()
        lines.append({
            "net": net, "source": source,
            "drop of W": own["drop"].mean(), "of random W": own["drop_random"].mean(),
            "of W with noise": own["drop_noise"].mean(), "of W from another seed": own["drop_seed"].mean(),
            "reuse of W (median)": own["reuse"].median(), "n W": int(own["reuse"].notna().sum()),
            "pairs no worse than another seed": known.astype(float).mean() if len(known) else np.nan,
            "n_seeds": group["n_seeds"].max(), "n_patients": group["n_patients"].max(),
        })  # fmt: skip
    return pd.DataFrame(lines)
