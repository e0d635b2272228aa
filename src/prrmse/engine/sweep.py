"""A layer sweep: evaluate many small changes of one network.

The engine ``plain`` runs the whole network for each change. The others run it once for some slices, keep values, and
re-run only what lies downstream of each change (`prrmse.engine`):

- ``fast`` also rewrites the network so that swaps share more; equal to ``plain`` up to the rounding of float32;
- ``exact`` runs the network's own operations on the same batches in the same memory format: its counts are those
  of a plain forward pass, bit for bit.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from prrmse.engine.program import Plan, Program, largest_step
from prrmse.engine.rewrite import rewrite
from prrmse.engine.schedule import schedule
from prrmse.engine.steps import Call, Step
from prrmse.engine.trace import TracingError, trace
from prrmse.learning.device import forward_only
from prrmse.learning.dice import Counts, Masks
from prrmse.learning.evaluate import Evaluation, output_of
from prrmse.names import Layer
from prrmse.nets.layers import check_fits, normalises_by_batch, replaced, tensor_names, under_all_names

log = logging.getLogger(__name__)

# Number of slices that a trace is tried on; it was made of others (`prrmse.engine.trace.BATCHES`). More of them would
# need more memory than a sweep may be allowed.
VERIFIED = 2
# Of the largest output, by which a rewritten network's may differ.
TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
# Raised by a program that does something else than the network.
DOES_NOT_RUN = (RuntimeError, TypeError, ValueError, AttributeError)

Change = Mapping[str, torch.Tensor]


def sweep(
    network: nn.Module,
    source: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    evaluation: Evaluation,
    *,
    engine: str = "fast",
    memory_mb: float = 2000,
) -> tuple[Counts, list[Counts]]:
    """`sweep_changes`, each change one pair taken from the source, in the order of ``layers``.

    Raises:
        ValueError: a source tensor is missing or has another shape (before anything runs).
        InputError: as `sweep_changes`.
    """
    own = network.state_dict()
    for layer in layers:
        check_fits(source, own, layer.tensor)
    changes = [{layer.tensor: source[layer.tensor]} for layer in layers]
    return sweep_changes(network, changes, evaluation, engine=engine, memory_mb=memory_mb)


@torch.inference_mode()
def sweep_changes(
    network: nn.Module,
    changes: Sequence[Change],
    evaluation: Evaluation,
    *,
    engine: str = "fast",
    memory_mb: float = 2000,
) -> tuple[Counts, list[Counts]]:
    """Dice counts of the network, and with each set of tensors in the place of its own.

    Args:
        network: the target; unchanged afterwards.
        changes: tensors by name, of the network's shapes.
        evaluation: the slices to measure on.
        engine: ``fast``, ``exact`` or ``plain``. A network that torch.fx cannot trace is swept by ``plain``.
        memory_mb: bound in MiB on what is held beside the data and copies of the network's tensors (at most nine, for
            ``fast`` on a CPU); under a tighter one more is recomputed.

    Returns:
        Counts ``[P, C]`` of the network itself, and of each change.

    Raises:
        InputError: the bound is too small for one slice.
    """
    if engine != "fast":
        evaluation = evaluation.as_written()
    if engine == "plain":
        return _plain(network, changes, evaluation)
    own = network.state_dict()
    real = [
        {k: v for k, v in under_all_names(own, change).items() if not torch.equal(v.to(own[k]), own[k])}
        for change in changes
    ]
    placed = evaluation.placed_copy(network)
    try:
        program = _traced(placed, evaluation)
    except TracingError as e:
        log.warning("%s; the whole network is run for each swap", e)
        return _plain(network, changes, evaluation)
    _cast(program, evaluation.dtype)
    # Of tensors that no step reads nothing is taken for granted: heads that are not run, or what tracing did not see.
    read = {n for names in tensor_names(own).values() if any(map(program.readers, names)) for n in names}
    unseen = {n for change in real for n in change} - read
    if unseen and _without_effect(placed, real, unseen, evaluation):
        real = [{n: value for n, value in change.items() if n in read} for change in real]
    unread = [i for i, change in enumerate(real) if not read.issuperset(change)]
    swept = [i for i, change in enumerate(real) if change and i not in unread]
    exact = engine == "exact"
    batched = normalises_by_batch(placed)
    del placed  # the program has its own copy
    with forward_only(evaluation.device, evaluation.dtype):
        unchanged, *counts = _run(program, [real[i] for i in swept], evaluation, exact, exact or batched, memory_mb)
    found = dict(zip(swept, (Counts(*c) for c in counts), strict=True))
    if unread:
        base, others = _plain(network, [real[i] for i in unread], evaluation)
        found |= {i: c for i, c in zip(unread, others, strict=True) if not np.array_equal(c, base)}
    return Counts(*unchanged), [found.get(i, Counts(*unchanged)) for i in range(len(changes))]


def _traced(network: nn.Module, evaluation: Evaluation) -> Program:
    """The network as a program with the network's outputs, which is verified on two slices.

    Raises:
        TracingError: it cannot be traced, or the program has other outputs: a module changes in place what is
            read again, something is drawn, a question about types is answered wrongly while tracing.
    """
    whole = evaluation.whole.image
    with forward_only(evaluation.device, evaluation.dtype):
        program = trace(network, whole[:1])
        image = _some(evaluation)
        expected = output_of(network(image))
        try:
            made = output_of(program.record(()).run({program.image: image})[program.output])
        except DOES_NOT_RUN as e:
            raise TracingError(f"the torch.fx trace of {type(network).__name__} does not run ({e})") from e
        if made.shape != expected.shape or not torch.allclose(made, expected, rtol=0, atol=0, equal_nan=True):
            raise TracingError(f"{type(network).__name__} has other outputs than its torch.fx trace")
    return program


def _without_effect(
    network: nn.Module, changes: Sequence[Change], tensors: Collection[str], evaluation: Evaluation
) -> bool:
    """Whether these tensors, all changed at once, leave the outputs for all slices as they are, bit for bit.

    They get NaN, and then the values that they have in the changes: a comparison with NaN may go the same way as with
    the network's own value. What two of them would only do to each other is not seen.
    """
    own = network.state_dict()
    if not all(own[name].is_floating_point() for name in tensors):
        return False
    tried: list[dict[str, torch.Tensor]] = [{name: torch.full_like(own[name], torch.nan) for name in tensors}, {}]
    for change in changes:
        for name, value in ((n, v) for n, v in change.items() if n in tensors):
            free = next((values for values in tried[1:] if name not in values), None)
            if free is None:
                tried.append({name: value})
            else:
                free[name] = value
    with forward_only(evaluation.device, evaluation.dtype):
        for batch in evaluation.batches:
            expected = output_of(network(batch.image)).clone()  # a network may give out what it writes into again
            for values in tried:
                try:
                    with replaced(network, values):
                        found = output_of(network(batch.image))
                except Exception:
                    return False
                if not torch.equal(found, expected):
                    return False
    return True


def _some(evaluation: Evaluation) -> torch.Tensor:
    """Slices on which programs are compared: the first and the last, though there may be one only."""
    whole = evaluation.whole.image
    return torch.cat([whole[:1]] * (VERIFIED - 1) + [whole[-1:]])


def _cast(program: Program, dtype: torch.dtype) -> None:
    """What autocast would do anew for every swap: the weights of convolutions in the dtype they are used in.

    Not of those that something else reads, too, which may be the weight before it is standardised.
    """
    calls = [step for step in program.steps.values() if isinstance(step, Call)]
    elsewhere = {tensor for call in calls if call.module is None for tensor in call.tensors}
    for call in calls:
        module = call.module
        if isinstance(module, nn.Conv2d | nn.Conv3d) and not elsewhere.intersection(call.tensors):
            module.to(dtype)


def _rewritten(program: Program, evaluation: Evaluation) -> Program:
    """The program in fewer steps, if it then has the same outputs on two slices, up to rounding."""
    image = _some(evaluation)
    output, outline = program.outlined(image)
    made = rewrite(program, outline, evaluation.dtype, evaluation.device)
    expected = output_of(output).float()
    # Far more than rounding, and far less than what a step that is not understood would bring.
    allowed = TOLERANCES[evaluation.dtype] * float(expected.abs().max())

    def agrees(plan: Plan) -> bool:
        found = output_of(plan.run({made.image: image})[made.output]).float()
        return found.shape == expected.shape and float((found - expected).abs().max()) <= allowed  # False if not finite

    with contextlib.suppress(*DOES_NOT_RUN):
        if agrees(made.record(())) and agrees(made.whole()):
            return made
    log.warning("the network, rewritten for a fast sweep, has other outputs; it is swept as it is written")
    return program


def _plain(network: nn.Module, changes: Sequence[Change], evaluation: Evaluation) -> tuple[Counts, list[Counts]]:
    """The same by evaluating a copy of the whole network for each change."""
    copied = evaluation.placed_copy(network)
    found = []
    for change in changes:
        with replaced(copied, change):
            found.append(evaluation.counts(copied))
    return evaluation.counts(copied), found


def _run(
    program: Program, changes: Sequence[Change], evaluation: Evaluation, exact: bool, fixed: bool, memory_mb: float
) -> np.ndarray:
    """Counts int64 ``[1 + changes, 3, P, C]``, the network's own first; ``fixed``: in the batches of the evaluation."""
    whole = evaluation.whole
    program = program if exact else _rewritten(program, evaluation)
    outline = program.outline(whole.image[:1])
    changed = [_changed(program, {k: v.to(evaluation.device) for k, v in change.items()}) for change in changes]
    most = len(evaluation.batches[0].image) if fixed else len(whole.image)
    step_bytes = largest_step(program, whole.image[:1]) if evaluation.device.type == "cpu" and not fixed else 0
    plan = schedule(program, changed, outline, most, memory_mb, step_bytes=step_bytes, fixed=fixed)
    log.info(
        "%d swaps, batches of %d slices, %d of %d values kept, at most %.0f MiB",
        *(len(changes), plan.slices, len(plan.kept), len(program.steps), plan.bytes / 2**20),
    )
    record = program.record(plan.kept)
    reruns = [program.rerun(steps, plan.kept) for steps in changed]
    shape = (len(evaluation.patients), evaluation.channels)
    totals = torch.zeros((1 + len(changes), 3, *shape), dtype=torch.int64, device=evaluation.device)
    parts = list(whole.parts(plan.slices))
    # A bar for who waits at a terminal; in a log of the workflow it would be noise.
    for part in tqdm(parts, desc=f"{len(changes)} swaps", unit="batch", disable=None, leave=False):
        masks = Masks(part.label, part.patient, shape)
        recorded = record.run({program.image: part.image})
        output = recorded[program.output] if program.output in plan.kept else recorded.pop(program.output)
        unchanged = masks.count_largest(output_of(output))
        del output
        totals[0] += unchanged
        for i, rerun in enumerate(reruns):
            if not changed[i]:  # tensors that the network does not use
                totals[1 + i] += unchanged
                continue
            totals[1 + i] += masks.count_largest(output_of(rerun.run(recorded)[program.output]))
        del recorded, masks  # before the next ones are made
    found: np.ndarray = totals.cpu().numpy()
    return found


def _changed(program: Program, change: Change) -> dict[str, Step]:
    """The steps that read the changed tensors, with these."""
    steps: dict[str, Step] = {}
    for tensor, value in change.items():
        for name in program.readers(tensor):
            steps[name] = steps.get(name, program.steps[name]).replaced(tensor, value)
    return steps
