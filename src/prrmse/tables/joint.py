"""What swaps of several tensors say, by network and source: quantities with intervals over seeds and patients."""

from __future__ import annotations

import pandas as pd

from prrmse.names import GROUP
from prrmse.settings import Verdict
from prrmse.tables.inference import crossed_array, crossed_interval, mean_of


def joint_effects(parts: pd.DataFrame, settings: Verdict) -> pd.DataFrame:
    """Two quantities of each (net, target, source), with `crossed_interval`.

    ``together``: the drop when the first layers of the network are swapped together, as many of them as are harmless
    one by one (`joint` within the tolerance, mean over seeds and patients); NaN for fewer than two.
    ``recovered``: the drop of a kernel alone less that with re-estimated running statistics, mean over layers;
    the drop from re-estimating them without a swap is subtracted.

    Args:
        parts: net, target, source, seed, variant (alone, joint, cumulative, reestimated), layer, patient, dice,
            baseline; layer 0 of ``reestimated`` swaps nothing.
        settings: tolerance, level of ``verdict``.

    Returns:
        One row per (net, target, source, effect): value, low, high, n_layers, n_seeds, n_patients.
    """
    rows = parts.assign(drop=parts["baseline"] - parts["dice"])
    found = []
    for key, group in rows.groupby(GROUP, sort=False):
        own = dict(list(group.groupby("variant")))
        drops = own["joint"].groupby("layer")["drop"].mean()
        harmless = drops.index[(drops <= settings.tolerance).cumprod().astype(bool)]
        together = own["cumulative"][own["cumulative"]["layer"] == harmless[-1]] if len(harmless) > 1 else None
        again = own["reestimated"]
        recovered = (
            crossed_array(own["alone"], [])
            - crossed_array(again[again["layer"] > 0], [])
            + crossed_array(again[again["layer"] == 0], [])
        )
        for effect, values, layers in (
            ("together", None if together is None else crossed_array(together, []), len(harmless)),
            ("recovered", recovered, own["alone"]["layer"].nunique()),
        ):
            row = dict(zip(GROUP, key, strict=True)) | {"effect": effect}
            if values is not None:
                interval = crossed_interval(mean_of, values, settings.level)
                row |= interval._asdict()
            found.append(row | {"n_layers": layers})
    sizes = {"n_seeds": rows["seed"].nunique(), "n_patients": rows["patient"].nunique()}
    columns = [*GROUP, "effect", "value", "low", "high", "n_layers"]
    return pd.DataFrame(found, columns=columns).assign(**sizes)
