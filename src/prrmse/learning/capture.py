"""A step of work on a GPU as one graph, so that the device does not wait for Python to launch it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]
Function = Callable[..., Tensors]


def record_graph(function: Function, arguments: Tensors) -> tuple[Callable[[], None], Tensors]:
    """Record what the function does to these arguments: the replay, and the results that it writes."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function(*arguments)
    return graph.replay, results


class Captured:
    """Does what a function does: a few times by calling it, while libraries settle; then it is recorded and replayed.

    Args:
        function: of tensors of fixed shapes, to tensors. It may change other tensors in place. Numbers that change from
            call to call have to be in tensors, and nothing may wait for the device; if something does, so that it
            cannot be recorded, it is called as before.
        record: see `record_graph`.
    """

    WARM_UP = 3

    def __init__(self, function: Function, record: Callable = record_graph) -> None:
        self._function, self._record = function, record
        self._calls = 0
        self._arguments: Tensors = ()
        self._results: Tensors = ()
        self._replay: Callable[[], None] | None = None

    def __call__(self, *arguments: torch.Tensor) -> Tensors:
        """The results; those of an earlier call may be overwritten."""
        self._calls += 1
        if self._calls <= self.WARM_UP:
            return self._aside(arguments)
        if self._calls == self.WARM_UP + 1:
            self._try_to_record(arguments)
        if self._replay is None:
            return self._function(*arguments)
        for own, given in zip(self._arguments, arguments, strict=True):
            own.copy_(given)
        self._replay()
        return self._results

    def _aside(self, arguments: Tensors) -> Tensors:
        """On a stream of its own, as recording will be: what autograd sets up is bound to a stream."""
        if arguments[0].device.type != "cuda":
            return self._function(*arguments)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = self._function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return results

    def _try_to_record(self, arguments: Tensors) -> None:
        self._arguments = tuple(argument.clone() for argument in arguments)
        try:
            self._replay, self._results = self._record(self._function, self._arguments)
        except RuntimeError as e:
            log.warning("not recorded as a graph, and slower for it: %s", " ".join(str(e).split()))
