"""What a run found, in three sentences: what can be reused, what that gains, and what becomes of the paper's claims."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from prrmse.figures.style import NET_NAMES
from prrmse.tables.answer import FAILS, HOLDS


def sentences(tables: Mapping[str, pd.DataFrame], tolerance: float) -> list[str]:
    """One sentence for each of the three questions; of transfer none where the run has none.

    Args:
        tables: network, transfer and claims by name.
        tolerance: of the verdict.
    """
    return [_reuse(tables["network"], tolerance), *_gains(tables["transfer"]), _claims(tables["claims"])]


def _reuse(network: pd.DataFrame, tolerance: float) -> str:
    parts = []
    for (net, target), rows in network.groupby(["net", "target"], sort=False):
        own = rows[rows["source"] != "all"]
        best = own.nlargest(1, "fraction_pairs").iloc[0]
        rule = "is" if bool(rows[rows["source"] == "all"]["is_rn"].iloc[0]) else "is not"
        parts.append(
            f"{best['fraction_pairs']:.0%} of the pairs of kind and layer of {_name(net)} can each be taken alone from "
            f"{best['source']}, its best source for {target}; they hold {best['fraction_scalars']:.0%} of its "
            f"parameters, and {_name(net)} {rule} a reusable network by the paper's rule"
        )
    return f"At a tolerance of {tolerance:g} in Dice, {'. '.join(parts)}."


def _gains(transfer: pd.DataFrame) -> list[str]:
    rows = transfer[transfer["class"] == "mean"]
    if rows.empty:
        return []
    few = rows[rows["samples"] == rows["samples"].min()]
    net = few["net"].iloc[0]
    dice = few[few["net"] == net].groupby(["arm", "source"])["dice"].mean().reset_index()
    parts = []
    for arm, text in (("scratch", "from scratch"), ("finetune", "fine-tuned"), ("freeze", "with what is reused kept")):
        for _, best in dice[dice["arm"] == arm].nlargest(1, "dice").iterrows():
            source = "" if arm == "scratch" else f" (best source: {best['source']})"
            parts.append(f"{best['dice']:.2f} {text}{source}")
    patients = int(few["n_train"].max())
    return [f"Trained with {patients} patients, {_name(net)} reaches a Dice of {', '.join(parts)}."]


def _claims(claims: pd.DataFrame) -> str:
    holds, fails = (int((claims["answer"] == answer).sum()) for answer in (HOLDS, FAILS))
    return (
        f"Of the paper's {len(claims)} claims, {holds} hold, {fails} do not, and {len(claims) - holds - fails} stay "
        "undecided with these patients and seeds."
    )


def _name(net: object) -> str:
    return NET_NAMES.get(str(net), str(net))
