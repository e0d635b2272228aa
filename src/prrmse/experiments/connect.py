"""From target to source in steps: where is Dice lost, is it the order of channels, is it the statistics (ours)?

A swap goes all the way at once. Here every kernel, and the network as a whole, also goes a part of it:
``(1 - a) target + a source``. How far Dice then falls below the line between both ends is the barrier of the layer
(Adilova et al. 2024, ICLR). Two known reasons for a barrier are taken away in turn: channels in another order, by
weight matching (`prrmse.compare.align`), and running statistics that are not those of the mixed kernels, by estimating
them again on training images of the target (Jordan et al. 2023, REPAIR).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from prrmse.compare.align import channels_of, match, permute
from prrmse.compare.connectivity import between, llfc
from prrmse.data.slices import some_slices
from prrmse.engine.sweep import sweep_changes
from prrmse.engine.table import dice_by_change
from prrmse.engine.trace import TracingError
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.freeze import SLICES, reestimated
from prrmse.learning.reach import reaching
from prrmse.learning.target import Target
from prrmse.names import STEPS, Layer
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.nets.layers import State
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, Network

log = logging.getLogger(__name__)

WHOLE = "whole network"


class Connection(NamedTuple):
    """``swept``: Dice of each step. ``llfc``: linear connectivity of each kernel's outputs."""

    swept: pd.DataFrame
    llfc: pd.DataFrame


def connect(
    target: Path, source: Path, data: Path, spec: Network, compute: Compute, *, engine: str, memory_mb: float
) -> Connection:
    """Steps from the target to the source as it is, and to the source aligned to the target.

    Args:
        target, source: checkpoints of the same network.
        data: processed data set of the target.
        spec: the network.
        compute: where and in which dtype.
        engine, memory_mb: see `prrmse.engine.sweep.sweep_changes`.

    Returns:
        ``swept``: one row per (change, patient) of the target's validation slices: those of `steps_to` with aligned,
        patient, dice, baseline; Dice is the mean over foreground structures. ``llfc``: one row per kernel: aligned,
        layer, module, llfc, ends (`prrmse.compare.connectivity.Agreement`). Nothing aligned of a network that torch.fx
        cannot trace.
    """
    own = Target.load(target, data, spec, compute)
    state, header = load_checkpoint(source)
    evaluation = own.validation()
    training = own.on(some_slices(own.slices.split("train"), SLICES, own.header["model"]))
    layers = [layer for layer in reaching(own.network, evaluation.whole.image[:1]) if not layer.final]
    seed = derive_seed(own.header["net"], header["model"], "alignment", own.header["seed"])
    views = sources(own.network, state, evaluation, seed)
    unmoved = True in views and all(torch.equal(state[name], tensor) for name, tensor in views[True].items())
    named = [
        ({"aligned": aligned, **name}, change)
        for aligned, other in views.items()
        if not (aligned and unmoved)
        for name, change in steps_to(own.network, other, layers, training)
    ]
    log.info("%d steps on %d validation patients", len(named), len(evaluation.patients))
    changes = [change for _, change in named]
    found = sweep_changes(own.network, changes, evaluation, engine=engine, memory_mb=memory_mb)
    table = dice_by_change(*evaluation.rebased(own.network, *found), [name for name, _ in named], evaluation)
    swept = table[table["class"] == "mean"].drop(columns="class")
    if unmoved:
        swept = pd.concat([swept, swept.assign(aligned=True)])
    agreements = [
        agreement_table(own.network, other, layers, evaluation).assign(aligned=aligned)
        for aligned, other in views.items()
    ]
    return Connection(swept, pd.concat(agreements))


def sources(network: nn.Module, state: State, evaluation: Evaluation, seed: int) -> dict[bool, State]:
    """The source as it is, and, if the network can be traced, aligned to the target: by whether it is aligned.

    Args:
        network: the target.
        state: of the source.
        evaluation: images of the right shape.
        seed: of the alignment's order.
    """
    try:
        channels = channels_of(network, evaluation.whole.image[:1].cpu())
    except TracingError as e:
        log.warning("%s; nothing is aligned", e)
        return {False: state}
    return {False: state, True: permute(state, channels, match(network.state_dict(), state, channels, seed))}


def steps_to(
    network: nn.Module, source: State, layers: Sequence[Layer], training: Evaluation
) -> Iterator[tuple[dict[str, str | int | bool], dict[str, torch.Tensor]]]:
    """What each step is called (layer, module, step, reestimated), and the tensors that it replaces.

    Each kernel, alone; and all pairs together (layer 0), with their running statistics between those of both, too, and
    with statistics that are re-estimated: then also at 0, where nothing else is changed.

    Args:
        network: the target.
        source: a state of the same network.
        layers: pairs to step on.
        training: slices on which statistics are re-estimated.
    """
    own = network.state_dict()
    tensors = [layer.tensor for layer in layers]
    for layer in layers:
        if layer.kind == "W":
            for step in STEPS:
                name: dict[str, str | int | bool] = {"layer": layer.layer, "module": layer.module, "step": step}
                yield {**name, "reestimated": False}, between(own, source, step / 100, [layer.tensor])
    for step in (0, *STEPS):
        change = between(own, source, step / 100, tensors)
        whole: dict[str, str | int | bool] = {"layer": 0, "module": WHOLE, "step": step}
        if step:
            yield {**whole, "reestimated": False}, change
        yield {**whole, "reestimated": True}, change | reestimated(network, change, training)


def agreement_table(network: nn.Module, source: State, layers: Sequence[Layer], evaluation: Evaluation) -> pd.DataFrame:
    """`llfc` of each kernel's outputs: layer, module, llfc, ends; arguments as for `steps_to`."""
    kernels = [layer for layer in layers if layer.kind == "W"]
    found = llfc(network, source, evaluation, [layer.module for layer in kernels])
    rows = [{"layer": k.layer, "module": k.module, **found[k.module]._asdict()} for k in kernels]
    return pd.DataFrame(rows)
