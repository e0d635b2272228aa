"""What a training does differently on a GPU (docs/gpu.md; the tests use fake tensors and stand-ins on a CPU).

The loop calls `prepare_step`; its optimiser and its loss take what a recorded step needs from `adam` and
`cross_entropy`. On a CPU each of them is torch's plain way.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from prrmse.data.slices import IGNORE
from prrmse.learning.separable import matrices

log = logging.getLogger(__name__)

Tensors = tuple[torch.Tensor, ...]
Function = Callable[..., Tensors]
Record = Callable[[Function, Tensors], tuple[Callable[[], None], Tensors]]
MODES = {"bilinear", "bicubic"}
# How torch's warning of `torch.cuda.set_sync_debug_mode` begins.
WAITED = "called a synchronizing CUDA operation"
# What capturable Adam says of every step outside a graph; those are the few before one is recorded.
ADAM_UNCAPTURED = "This instance was constructed with capturable=True"


def prepare_step(step: Function, device: torch.device) -> Function:
    """The training step; for a GPU with deterministic gradients of resizing, and recorded as a graph.

    A small network leaves a GPU waiting for Python otherwise.

    Args:
        step: see `Captured`.
        device: of the network.
    """
    if device.type != "cuda":
        return step
    resizing = DeterministicResizing()

    def deterministic(*arguments: torch.Tensor) -> Tensors:
        with resizing:
            return step(*arguments)

    return Captured(deterministic)


def adam(
    groups: Sequence[Sequence[nn.Parameter]],
    factors: Sequence[float],
    rate: float,
    weight_decay: float,
    device: torch.device,
) -> torch.optim.Adam:
    """Fused Adam. On a GPU its rates are tensors, which a recorded graph reads anew; `set_rate` changes them.

    Args:
        groups: parameters that have one rate.
        factors: of the rate, for each group.
        rate: the first one.
        weight_decay: of Adam.
        device: of the parameters.
    """
    on_cuda = device.type == "cuda"
    rates = [torch.tensor(rate * f, device=device) if on_cuda else rate * f for f in factors]
    made = [
        {"params": list(group), "factor": factor, "lr": own}
        for group, factor, own in zip(groups, factors, rates, strict=True)
    ]
    return torch.optim.Adam(made, weight_decay=weight_decay, fused=True, capturable=on_cuda)


def set_rate(optimiser: torch.optim.Adam, rate: float) -> None:
    """Give an optimiser of `adam` another learning rate."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate * group["factor"])
        else:
            group["lr"] = rate * group["factor"]


def cross_entropy(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean over pixels: output ``[N, C, ...]``, label ``[N, ...]``. A GPU sums it in one order only over rows.

    Pixels with the label `IGNORE` take no part.
    """
    if output.device.type == "cpu":
        return F.cross_entropy(output, label, ignore_index=IGNORE)
    return pixel_cross_entropy(output, label)


def pixel_cross_entropy(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """`cross_entropy` with the pixels as rows, ``[pixels, C]``."""
    return F.cross_entropy(output.movedim(1, -1).flatten(0, -2), label.flatten(), ignore_index=IGNORE)


def record_graph(function: Function, arguments: Tensors) -> tuple[Callable[[], None], Tensors]:
    """Record what the function does to these arguments: the replay, and the results that it writes."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph):
            results = function(*arguments)
    except RuntimeError:
        # torch leaves the process on the stream of the recording, and its generator refuses to draw outside of one.
        torch.cuda.set_stream(before)
        generator = torch.cuda.default_generators[before.device_index]
        generator.graphsafe_set_state(generator.clone_state())
        raise
    return graph.replay, results


@contextlib.contextmanager
def noticing_waits(device: torch.device) -> Iterator[list[str]]:
    """Context that collects where the code in it waits for the device; other warnings are shown as usual."""
    found: list[str] = []
    on_gpu = device.type == "cuda"
    before = torch.cuda.get_sync_debug_mode() if on_gpu else 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if on_gpu:
                torch.cuda.set_sync_debug_mode(before)
    for w in caught:
        if str(w.message).startswith(WAITED):
            found.append(f"{w.filename}:{w.lineno}")
        elif "ynchronization debug mode" not in str(w.message):
            warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


class Captured:
    """Does what a function does: a few times by calling it, while libraries settle; then it is recorded and replayed.

    Args:
        function: of tensors of fixed shapes, to tensors. It may change other tensors in place. Numbers that change from
            call to call have to be in tensors. A function that waits for the device cannot be recorded; it is called as
            before. Whether it does is seen in the last call before recording, since a recording that fails leaves torch
            in a state that it does not mend.
        record: see `record_graph`.
    """

    WARM_UP = 3

    def __init__(self, function: Function, record: Record = record_graph) -> None:
        self._function, self._record = function, record
        self._calls = 0
        self._waits: list[str] = []
        self._arguments: Tensors = ()
        self._results: Tensors = ()
        self._replay: Callable[[], None] | None = None

    @property
    def recorded(self) -> bool:
        """Whether calls replay a recording."""
        return self._replay is not None

    def __call__(self, *arguments: torch.Tensor) -> Tensors:
        """The results; those of an earlier call may be overwritten."""
        self._calls += 1
        if self._calls < self.WARM_UP:
            return self._on_own_stream(arguments)
        if self._calls == self.WARM_UP:
            with noticing_waits(arguments[0].device) as self._waits:
                return self._on_own_stream(arguments)
        if self._calls == self.WARM_UP + 1:
            self._try_to_record(arguments)
        if self._replay is None:
            return self._function(*arguments)
        for own, given in zip(self._arguments, arguments, strict=True):
            own.copy_(given)
        self._replay()
        return self._results

    def _on_own_stream(self, arguments: Tensors) -> Tensors:
        """As recording will be: what autograd sets up is bound to a stream."""
        if arguments[0].device.type != "cuda":
            return self._function(*arguments)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ADAM_UNCAPTURED)
            results = self._function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        return results

    def _try_to_record(self, arguments: Tensors) -> None:
        if self._waits:
            log.warning("not recorded as a graph, and slower for it: it waits for the GPU at %s", self._waits[0])
            return
        self._arguments = tuple(argument.clone() for argument in arguments)
        try:
            self._replay, self._results = self._record(self._function, self._arguments)
        except RuntimeError as e:
            log.warning("not recorded as a graph, and slower for it: %s", " ".join(str(e).split()))


def resized(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """``[N, C, h, w]`` by matrices ``[H, h]`` and ``[W, w]`` to ``[N, C, H, W]``, channels last."""
    (n, channels, h, w), high, wide = x.shape, len(rows), len(columns)
    y = torch.matmul(rows, x.permute(0, 2, 3, 1).reshape(n, h, w * channels))
    y = torch.matmul(columns, y.view(n * high, w, channels))
    return y.view(n, high, wide, channels).permute(0, 3, 1, 2)


class DeterministicResizing(TorchFunctionMode):
    """Context in which gradients of resizing and of adaptive average pooling are summed in one order on a GPU.

    There torch resizes bilinearly by a slow detour in its deterministic mode, and has no deterministic gradient of
    pooling at all. As matrix products both have one, are fast, and can be recorded as a graph. On a CPU torch's own
    operations are deterministic, and stay.

    Args:
        everywhere: on a CPU too.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        super().__init__()
        self._everywhere = everywhere
        self._matrices: dict[Any, list[torch.Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        separable = func is F.adaptive_avg_pool2d or (func is F.interpolate and kwargs.get("mode") in MODES)
        if not separable or args[0].ndim != 4 or (args[0].device.type == "cpu" and not self._everywhere):
            return func(*args, **kwargs)
        x, rest = args[0], args[1:]
        with torch.autocast(x.device.type, enabled=False):
            key = func, tuple(x.shape[-2:]), x.device, x.dtype, repr((rest, kwargs))
            if key not in self._matrices:
                with torch.no_grad():
                    found = matrices(lambda part: func(part, *rest, **kwargs), *x.shape[-2:])
                self._matrices[key] = [matrix.to(x.device, x.dtype) for matrix in found]
            return resized(x, *self._matrices[key])
