"""A layer sweep: evaluate many one-tensor changes of one network.

The plain way (`plain_sweep`) runs the whole network for each change. `sweep` runs it once for some slices, keeps
values, and re-runs only what lies downstream of each change (`prrmse.engine`):

- ``fast`` also rewrites the network so that swaps share more; equal to the plain way up to the rounding of float32;
- ``exact`` runs the network's own operations on the same inputs: its counts are the plain way's, bit for bit.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from prrmse.device import autocast, keep_freed_memory
from prrmse.engine import Program, TracingError, outlines, rewrite, schedule, trace
from prrmse.engine.steps import Step
from prrmse.evaluate import Evaluation, prediction_of
from prrmse.layers import Layer, swap
from prrmse.metrics import Counts, Masks

log = logging.getLogger(__name__)


@torch.inference_mode()
def sweep(
    network: nn.Module,
    source: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    evaluation: Evaluation,
    *,
    engine: str = "fast",
    memory_mb: float = 2000,
) -> tuple[Counts, list[Counts]]:
    """Dice counts of the network, and with each pair taken, alone, from the source.

    Args:
        network: the target; unchanged afterwards.
        source: tensors by name, of the same shapes.
        layers: the pairs to swap, one at a time.
        evaluation: the slices to measure on.
        engine: ``fast``, ``exact`` or ``plain``. A network that torch.fx cannot trace is swept the plain way.
        memory_mb: bound on what is held beside networks and data, in MiB; under a tighter one more is computed again.

    Returns:
        Counts ``[P, C]`` of the network itself, and of each swap in the order of ``layers``.

    Raises:
        ValueError: a source tensor is missing or has another shape (before anything runs).
        InputError: the bound is too small for one slice.
    """
    own = network.state_dict()
    differs = [
        layer
        for layer in layers
        if not torch.equal(_matching(source, own, layer).to(own[layer.tensor].device), own[layer.tensor])
    ]
    if engine == "plain":
        return plain_sweep(network, source, layers, evaluation)
    keep_freed_memory()
    placed = evaluation.place(copy.deepcopy(network))
    # What autocast would do anew for every swap: the kernels in the number format they are used in.
    for module in placed.modules():
        if isinstance(module, nn.Conv2d):
            module.to(evaluation.dtype)
    try:
        program = trace(placed)
    except TracingError as e:
        log.warning("%s; the whole network is run for each swap", e)
        return plain_sweep(network, source, layers, evaluation)
    with autocast(evaluation.device, evaluation.dtype):
        counts = _run(program, source, differs, evaluation, engine == "exact", memory_mb)
    unchanged = Counts(*counts[0])
    of = {layer: Counts(*c) for layer, c in zip(differs, counts[1:], strict=True)}
    return unchanged, [of.get(layer, unchanged) for layer in layers]


def plain_sweep(
    network: nn.Module, source: Mapping[str, torch.Tensor], layers: Sequence[Layer], evaluation: Evaluation
) -> tuple[Counts, list[Counts]]:
    """The same as `sweep`, by evaluating a copy of the whole network for each pair."""
    own = network.state_dict()
    copied = evaluation.place(copy.deepcopy(network))
    found = []
    for layer in layers:
        copied.load_state_dict(swap(own, source, [layer]))
        found.append(evaluation.counts(copied))
    copied.load_state_dict(own)
    return evaluation.counts(copied), found


def _run(
    program: Program,
    source: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    evaluation: Evaluation,
    exact: bool,
    memory_mb: float,
) -> np.ndarray:
    """Counts int64 ``[1 + layers, 3, P, C]``, the network's own first."""
    first = evaluation.batches[0]
    outline = outlines(program, first.image[:1])
    if not exact:
        program = rewrite(program, outline, evaluation.dtype, evaluation.device)
        outline = outlines(program, first.image[:1])
    changes = [_changed(program, layer.tensor, source[layer.tensor].to(evaluation.device)) for layer in layers]
    most = len(first.image)
    on_cpu = evaluation.device.type == "cpu"
    plan = schedule(program, changes, outline, most, memory_mb, on_cpu=on_cpu, fixed=exact)
    log.info(
        "%d pairs, %d slices at once, %d of %d values kept, at most %.0f MiB",
        *(len(layers), plan.slices, len(plan.kept), len(program.steps), plan.bytes / 2**20),
    )
    record = program.record(plan.kept)
    reruns = [program.rerun(change, plan.kept) for change in changes]
    shape = (len(evaluation.patients), evaluation.channels)
    totals = torch.zeros((1 + len(layers), 3, *shape), dtype=torch.int64, device=evaluation.device)
    for batch in evaluation.batches:
        for start in range(0, len(batch.image), plan.slices):
            part = slice(start, start + plan.slices)
            masks = Masks(batch.label[part], batch.patient[part], shape)
            recorded = record.run({program.image: batch.image[part]})
            output = recorded[program.output] if program.output in plan.kept else recorded.pop(program.output)
            unchanged = masks.count(prediction_of(output))
            del output
            totals[0] += unchanged
            for i, rerun in enumerate(reruns):
                if not changes[i]:  # a tensor that the network does not use
                    totals[1 + i] += unchanged
                    continue
                totals[1 + i] += masks.count(prediction_of(rerun.run(recorded)[program.output]))
            del recorded, masks  # before the next ones are made
    found: np.ndarray = totals.cpu().numpy()
    return found


def _changed(program: Program, tensor: str, value: torch.Tensor) -> dict[str, Step]:
    return {name: program.steps[name].replaced(tensor, value) for name in program.readers(tensor)}


def _matching(source: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], layer: Layer) -> torch.Tensor:
    if layer.tensor not in source:
        raise ValueError(f"{layer.tensor}: not in the source")
    if source[layer.tensor].shape != own[layer.tensor].shape:
        shapes = f"{tuple(source[layer.tensor].shape)} != {tuple(own[layer.tensor].shape)}"
        raise ValueError(f"{layer.tensor}: shape of source and target differ: {shapes}")
    return source[layer.tensor]
