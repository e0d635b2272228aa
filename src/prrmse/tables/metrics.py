"""The run in few numbers, for ``dvc metrics`` and ``dvc plots``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd


def metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Means over seeds: Dice or MSE of base models, share of pairs reusable, Dice of the arms; claims by answer."""
    base = tables["base"][tables["base"]["class"] == "mean"]
    base = base.assign(name=base["net"] + " " + base["model"])
    means = base.groupby("name", sort=False)[["dice", "mse"]].mean().round(4)
    answers = Counter(tables["claims"]["answer"])
    return {
        "base": {str(name): row.dropna().to_dict() for name, row in means.iterrows()},
        "reusable_pairs": dict(reuse_plot(tables["network"]).to_numpy().tolist()),
        "transfer_dice": dict(transfer_plot(tables["transfer"]).to_numpy().tolist()),
        "claims": {answer: answers[answer] for answer in ("holds", "does not hold", "undecided")},
    }


def transfer_plot(transfer: pd.DataFrame) -> pd.DataFrame:
    """One row per arm of the transfer experiment: arm (text), dice (mean foreground, over seeds)."""
    rows = transfer[transfer["class"] == "mean"].copy()
    rows["arm"] = rows["net"] + ", " + rows["samples"].astype(str) + " patients, " + rows["arm"] + " " + rows["source"]
    rows["arm"] = rows["arm"].str.replace(" none", "", regex=False)
    return rows.groupby("arm", sort=False)["dice"].mean().round(4).reset_index()


def reuse_plot(network: pd.DataFrame) -> pd.DataFrame:
    """One row per net, target and source: pair (text), reusable (share of its pairs)."""
    pair = network["net"] + ", " + network["target"] + " from " + network["source"]
    return pd.DataFrame({"pair": pair, "reusable": network["fraction_pairs"].round(4)})
