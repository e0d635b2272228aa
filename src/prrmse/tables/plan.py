"""Which pairs a transfer run reuses: all, all but the paper's printed list, or what our own verdict allows."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from prrmse.errors import InputError
from prrmse.names import Layer

# Paper: "non-reused" pairs of PSPNet; all others are reused.
PAPER_NOT_REUSED = {
    "pspnet": {
        *(("RM", i) for i in (1, 17)),
        *(("W", i) for i in (1, 6, 11, 12, 16, 17, 19, 20)),
        ("B", 1),
    }
}


def reused_pairs(
    net: str,
    target: str,
    source: str,
    layers: Sequence[Layer],
    plan: str,
    reuse_final: bool,
    verdict: pd.DataFrame | None = None,
) -> list[Layer]:
    """The pairs to take from the source.

    Args:
        net, target, source: names.
        layers: the network's inventory.
        plan: ``paper``, ``verdict`` or ``all``.
        reuse_final: whether the final convolution may be reused.
        verdict: ``verdict.csv``; needed by plan ``verdict``.
    """
    if plan == "paper":
        if net not in PAPER_NOT_REUSED:
            raise InputError(f"transfer.plan: the paper prints a list for pspnet only; use verdict for {net}")
        chosen = [layer for layer in layers if layer.pair not in PAPER_NOT_REUSED[net]]
    elif plan == "all":
        chosen = list(layers)
    else:
        if verdict is None:
            raise InputError("transfer.plan: verdict needs the table verdict.csv")
        names = {"net": net, "target": target, "source": source}
        rows = verdict[(verdict[list(names)] == pd.Series(names)).all(axis=1) & verdict["reusable"]]
        reusable = set(zip(rows["kind"], rows["layer"], strict=True))
        chosen = [layer for layer in layers if layer.pair in reusable]
    return [layer for layer in chosen if reuse_final or not layer.final]
