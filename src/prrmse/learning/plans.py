"""What of a source stays fixed while the rest is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from torch import nn

from prrmse.errors import InputError
from prrmse.names import BLOCKS, PLANS, Layer

FIRST = re.compile(r"first([1-9]\d*)")


def check_plan(plan: str) -> str:
    """A plan, if there is one of this name.

    Raises:
        InputError: there is none.
    """
    if plan not in PLANS and FIRST.fullmatch(plan) is None:
        raise InputError(f"there is no plan {plan}; name one of {', '.join(PLANS)}, or first3 for the first 3 layers")
    return plan


def fixed_by(plan: str, network: nn.Module, reused: Sequence[Layer]) -> list[Layer]:
    """The pairs that keep the source's values (in the first round only, for ``probe``).

    Args:
        plan: see `prrmse.experiments.halving.Candidate`.
        network: whose order of modules counts.
        reused: pairs that are taken from the source.
    """
    if plan == "finetune":
        return []
    if plan in ("head", "probe"):
        return list(reused)
    if plan in BLOCKS:
        trained = block_of(network, reused, BLOCKS.index(plan))
        return [layer for layer in reused if layer not in trained]
    place = {name: i for i, name in enumerate(network.state_dict())}
    kernels = sorted(place[layer.tensor] for layer in reused if layer.kind == "W")
    number = len(kernels) // 2 if plan == "half" else int(check_plan(plan).removeprefix("first"))
    end = kernels[number] if number < len(kernels) else len(place)
    return [layer for layer in reused if place[layer.tensor] < end]


def block_of(network: nn.Module, layers: Sequence[Layer], number: int) -> list[Layer]:
    """One of `BLOCKS` runs of modules, from 0, in the order in which the network has them, with as many in each."""
    listed = {layer.module for layer in layers}
    modules = [name for name, _ in network.named_modules() if name in listed]
    own = set(np.array_split(np.array(modules, dtype=object), len(BLOCKS))[number])
    return [layer for layer in layers if layer.module in own]
