"""The batch size, and which values to keep, so that a sweep stays under its bound of memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prrmse.engine.program import Program, size_of
from prrmse.engine.steps import Step
from prrmse.errors import InputError

MIB = 2**20
# What a step may work on at once. More slices read the weights of wide layers less often; with still more, nothing is
# faster (`make bench`).
BATCH_BYTES = 256 * MIB
# For the output's every value: its part of the prediction, of the label, and of their one-hot masks.
COUNT_BYTES = 16


class Schedule(NamedTuple):
    """Slices at once, the values to keep of the unchanged network, and the bytes that this takes."""

    slices: int
    kept: frozenset[str]
    bytes: int


def schedule(
    program: Program,
    changes: Sequence[Mapping[str, Step]],
    outline: Mapping[str, Any],
    most_slices: int,
    memory_mb: float,
    *,
    step_bytes: int = 0,
    fixed: bool = False,
) -> Schedule:
    """Smaller batches first, which repeats no work; then cheap values are dropped and recomputed, then convolutions.

    Args:
        program: the network.
        changes: the changed steps of every swap.
        outline: all values for one slice (`Program.outline`).
        most_slices: at once.
        memory_mb: bound on what the sweep holds beside network and data, MiB; without the operations' own workspace.
        step_bytes: what the largest step works on, for one slice; then no more slices than make a CPU fastest.
        fixed: exactly ``most_slices`` at once.

    Raises:
        InputError: not even the plain forward pass fits.
    """
    size = {name: size_of(value) for name, value in outline.items()}
    bound = memory_mb * MIB
    per_count = COUNT_BYTES * size_of(outline[program.output]) // 4

    def needed(kept: frozenset[str]) -> int:
        record = program.record(kept).peak(size)
        held = sum(size.get(name, 0) for name in kept)
        rerun = max((program.rerun(change, kept).peak(size) for change in changes), default=0)
        return max(record, held + rerun) + per_count

    # What costs most to recompute comes first.
    ranked = sorted(program.steps, key=lambda name: not program.steps[name].heavy)
    everything = frozenset(ranked)
    one = needed(everything)
    slices = most_slices
    if not fixed:
        enough = BATCH_BYTES // step_bytes if step_bytes else most_slices
        slices = max(1, min(most_slices, enough, int(bound // one)))
    if slices * one <= bound:
        return Schedule(slices, everything, slices * one)
    free = frozenset(name for name in ranked if size.get(name, 0) == 0)
    low, high = 0, len(ranked)  # the longest part of the ranking that fits
    while low < high:
        middle = (low + high + 1) // 2
        if slices * needed(free.union(ranked[:middle])) <= bound:
            low = middle
        else:
            high = middle - 1
    kept = free.union(ranked[:low])
    total = slices * needed(kept)
    if total > bound:
        raise InputError(
            f"<memory_mb>: {memory_mb:g} is too little: {slices} slice(s) of this size need "
            f"{total / MIB:.0f} MiB without keeping anything"
            + ("; or lower <evaluation_batch_size>" if fixed and slices > 1 else "")
        )
    return Schedule(slices, kept, total)
