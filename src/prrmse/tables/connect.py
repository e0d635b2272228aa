"""What lies between a target and a source, and how much of it is reused at once: by layer, and over targets (ours)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from prrmse.names import GROUP, STEPS
from prrmse.settings import Verdict
from prrmse.tables.study import RANDOM, over_targets

# Columns with the drop at each step, and at none.
DROPS = {step: f"drop_{step}" for step in (0, *STEPS)}
NONE, HALF, ALL = DROPS[0], DROPS[50], DROPS[100]
LAYER = [*GROUP, "aligned", "reestimated", "layer", "module"]
GREEDY = "greedy"


def connect_table(parts: pd.DataFrame) -> pd.DataFrame:
    """Each kernel, and the whole network (layer 0): `LAYER`, the columns of `DROPS`, barrier, n_patients.

    A drop is the Dice of the target less that of the step, mean over patients. The barrier is how far Dice falls below
    the line between both ends, at most: with a drop d(a), the maximum over a of d(a) - (1 - a) d(0) - a d(1).

    Args:
        parts: net, target, source and the rows of `prrmse.experiments.connect.Connection.swept`.
    """
    rows = parts.assign(drop=parts["baseline"] - parts["dice"])
    wide = rows.pivot_table(index=LAYER, columns="step", values="drop", sort=False)
    wide = wide.reindex(columns=list(DROPS))
    # What is at no step is the target itself, unless its statistics are re-estimated.
    wide[0] = wide[0].fillna(0.0)
    above = [wide[step] - (1 - step / 100) * wide[0] - step / 100 * wide[100] for step in DROPS]
    found = wide.rename(columns=DROPS).rename_axis(columns=None)
    found["barrier"] = pd.concat(above, axis=1).max(axis=1)
    found["n_patients"] = rows.groupby(LAYER, sort=False)["patient"].nunique()
    return found.reset_index()


def connect_effects(connected: pd.DataFrame, llfc: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """What holds over targets, by network: net, quantity, value, low, high, n_targets (`over_targets`).

    Args:
        connected: of `connect_table`.
        llfc: net, target, source, aligned, layer, module, llfc, ends.
        settings: tolerance, and the level of the intervals.
    """
    by_pair = [
        {"net": net, "quantity": name, "value": value}
        for (net, target, source), own in connected.groupby(GROUP, sort=False)
        for name, value in _quantities(
            own,
            llfc[(llfc["net"] == net) & (llfc["target"] == target) & (llfc["source"] == source)],
            settings.tolerance,
        ).items()
    ]
    values = pd.DataFrame(by_pair).dropna(subset="value")
    lines = [
        {"net": net, "quantity": name, **over_targets(own["value"], settings.level)}
        for (net, name), own in values.groupby(["net", "quantity"], sort=False)
    ]
    return pd.DataFrame(lines)


def _quantities(own: pd.DataFrame, llfc: pd.DataFrame, tolerance: float) -> dict[str, float]:
    """Of one target and source; NaN for what it does not have."""
    kernels = own[own["layer"] > 0]
    raw = kernels[~kernels["aligned"].astype(bool)]
    lost = raw[raw[ALL] > tolerance]
    found = {
        "kernels whose swap loses more than the tolerance, share": len(lost) / len(raw),
        "of these, kernels of which half a step does not, share": _mean((lost[HALF] <= tolerance).astype(float)),
        "barrier and drop of a kernel, Spearman": _spearman(raw["barrier"], raw[ALL]),
    }
    whole = {
        (bool(line["aligned"]), bool(line["reestimated"])): line for line in own[own["layer"] == 0].to_dict("records")
    }
    for aligned, named in ((False, ""), (True, ", aligned")):
        side = kernels[kernels["aligned"] == aligned]
        found |= {f"{what} of a kernel{named}": _mean(side[column]) for what, column in WHAT.items()}
        for reestimated, again in ((False, ""), (True, ", statistics re-estimated")):
            line = whole.get((aligned, reestimated), {})
            found |= {f"{what} of all{named}{again}": line.get(column, np.nan) for what, column in WHAT.items()}
        before, after = (found[f"drop of all{named}{again}"] for again in ("", ", statistics re-estimated"))
        found[f"share of that which re-estimation mends{named}"] = 1 - after / before if before > tolerance else np.nan
        agreement = llfc[llfc["aligned"] == aligned]
        found[f"linear connectivity{named}"] = _mean(agreement["llfc"])
        found[f"agreement of both ends{named}"] = _mean(agreement["ends"])
    found["drop of none, statistics re-estimated"] = whole.get((False, True), {}).get(NONE, np.nan)
    return found


WHAT = {"drop": ALL, "barrier": "barrier"}


def _spearman(a: pd.Series[float], b: pd.Series[float]) -> float:
    varies = np.ptp(a) > 0 and np.ptp(b) > 0
    return float(stats.spearmanr(a, b).statistic) if varies else np.nan


def _mean(values: pd.Series[float]) -> float:
    return float(values.mean()) if len(values) else np.nan


def together_effects(lists: pd.DataFrame, level: float) -> pd.DataFrame:
    """Share of the scalars that each order reuses at once, over targets; the random draws as their mean.

    Args:
        lists: net, target, source and the rows of `prrmse.experiments.together.together`.
        level: of the intervals.

    Returns:
        net, order, pairs, share, low, high, more (share of the greedy order less this one's, paired), more_low,
        more_high, drop_test (mean), n_targets.
    """
    own = lists.assign(order=lists["order"].str.replace(rf"^{RANDOM}\d+$", RANDOM, regex=True))
    lines = []
    for net, of_net in own.groupby("net", sort=False):
        means = of_net.groupby(["target", "order"], sort=False)[["pairs", "share", "drop_test"]].mean().unstack("order")
        for order in of_net["order"].unique():
            share = means["share"][order]
            value, low, high, n = over_targets(share, level).values()
            line = {"net": net, "order": order, "pairs": means["pairs"][order].mean()}
            line |= {"share": value, "low": low, "high": high}
            if order != GREEDY:
                more = over_targets(means["share"][GREEDY] - share, level)
                line |= {"more": more["value"], "more_low": more["low"], "more_high": more["high"]}
            lines.append(line | {"drop_test": means["drop_test"][order].mean(), "n_targets": n})
    columns = ["net", "order", "pairs", "share", "low", "high", "more", "more_low", "more_high", "drop_test"]
    return pd.DataFrame(lines, columns=[*columns, "n_targets"])
