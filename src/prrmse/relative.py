"""What the controls say of the real swaps (ours; DESIGN section 6): tables and their summary, without torch."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prrmse.bootstrap import bootstrap_mean
from prrmse.markdown import markdown_table
from prrmse.titles import CONTROLS
from prrmse.verdict import GROUP, PAIR_COLUMNS, drops_by_patient


def evidence_table(swaps: pd.DataFrame, controls: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    """Each pair's drop beside its controls', by network, target, source, kind and layer.

    Args:
        swaps: rows of the verdict's input (`prrmse.verdict.verdict_table`).
        controls: the same of the controls, whose name is in ``source``.
        settings: level, resamples, tolerance of ``verdict``.

    Returns:
        drop; drop_random, drop_seed, drop_noise (of the noise of this source); ``excess``: drop less that of the second
        seed, patient by patient, with its bootstrap interval; ``equivalent``: the interval's upper end is at most the
        tolerance; ``reuse``: 1 - drop / drop_random where a random tensor does harm above the tolerance, else NaN;
        n_patients, n_seeds.
    """
    names: list[Hashable] = [*GROUP]
    real, sham = (drops_by_patient(rows, [*GROUP, *PAIR_COLUMNS]) for rows in (swaps, controls))
    tables = []
    for key, rows in real.groupby(level=GROUP, sort=False):
        net, target, source = (str(part) for part in key)
        own = rows.droplevel(names).dropna(axis=1, how="all")  # without the patients of other targets
        table = own.mean(axis=1).rename("drop").reset_index()
        of = {name: _control(sham, net, target, name, own) for name in ("random", "seed", f"noise-{source}")}
        for name, values in of.items():
            table[f"drop_{name.partition('-')[0]}"] = values.mean(axis=1).to_numpy()
        excess = (own - of["seed"]).to_numpy()
        table["excess"] = excess.mean(axis=1)
        table["excess_low"], table["excess_high"] = (
            bootstrap_mean(excess, dict(settings), "evidence", *key) if np.isfinite(excess).any() else (np.nan, np.nan)
        )
        fits = table["excess_high"] <= settings["tolerance"]
        table["equivalent"] = fits.astype(object).where(table["excess_high"].notna(), None)
        harmful = table["drop_random"] > settings["tolerance"]
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


def control_summary(controls: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """Each control in a line: net, control, mean and largest drop of W and of the statistics, share within tolerance.

    Args:
        controls: rows of sweeps, the control's name in ``source``.
        tolerance: of the verdict.
    """
    drops = drops_by_patient(controls, [*GROUP, *PAIR_COLUMNS]).mean(axis=1).rename("drop").reset_index()
    drops = drops[~drops["final"]]
    rows = []
    for (net, control), group in drops.groupby(["net", "source"], sort=False):
        kernels = group[group["kind"] == "W"]["drop"]
        statistics = group[group["kind"].isin(["RM", "RV"])]["drop"]
        rows.append({
            "net": net, "control": control,
            "drop_kernels": kernels.mean(), "largest_drop_kernels": kernels.max(), "drop_statistics": statistics.mean(),
            "fraction_reusable": (group["drop"] <= tolerance).mean(), "n_pairs": len(group),
            "n_seeds": controls["seed"].nunique(), "n_patients": controls["patient"].nunique(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def ranked(names: Sequence[str]) -> list[str]:
    """Controls in the order of `CONTROLS`, then the noises."""
    return sorted(names, key=lambda name: (CONTROLS.index(name) if name in CONTROLS else len(CONTROLS), name))


def evidence_text(summary: pd.DataFrame, evidence: pd.DataFrame, settings: Mapping[str, Any]) -> str:
    """Both as Markdown: each control in a line, then each source in a line."""
    rows = evidence[~evidence["final"]]
    kernels = rows[rows["kind"] == "W"]
    lines = []
    for (net, source), group in rows.groupby(["net", "source"], sort=False):
        own = kernels[(kernels["net"] == net) & (kernels["source"] == source)]
        known = group["equivalent"].dropna()
        lines.append({
            "net": net, "source": source,
            "drop of W": own["drop"].mean(), "of random W": own["drop_random"].mean(),
            "of W with noise": own["drop_noise"].mean(), "of W from another seed": own["drop_seed"].mean(),
            "reuse of W (median)": own["reuse"].median(), "n W": int(own["reuse"].notna().sum()),
            "pairs no worse than another seed": known.astype(float).mean() if len(known) else np.nan,
        })  # fmt: skip
    seeds, patients = rows["n_seeds"].max(), rows["n_patients"].max()
    return (
        "# Evidence: every swap beside its controls\n\n"
        "`src/prrmse/controls.py` says what each control is. Drops are losses of mean foreground Dice, means over "
        f"pairs (final convolution left out), {seeds} seeds and {patients} validation patients. Ours, not the "
        "paper's.\n\n"
        f"## Controls\n\n{markdown_table(summary)}\n\n## Sources\n\n"
        "`reuse` is 1 - drop / drop of a random kernel, where that does harm: 1 as good as the target's own, 0 no "
        f"better than random. The last column: pairs whose drop exceeds that of the target's other seed by at most "
        f"{settings['tolerance']:g}, by the upper end of the paired interval over patients.\n\n"
        f"{markdown_table(pd.DataFrame(lines))}\n"
    )
