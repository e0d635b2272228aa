"""A network as a list of steps that can be re-run from the middle, under a bound of memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from prrmse.engine.steps import Call, Step, folded

# Convolutions as functions of the tensors of a module that is traced through: so timm writes them.
CONVOLVING: set[object] = {F.conv1d, F.conv2d, F.conv3d}


class Plan:
    """Steps to run in order; after each, the values to drop because nothing needs them any more."""

    def __init__(self, steps: Mapping[str, Step], held: Collection[str]) -> None:
        last = {source: name for name, step in steps.items() for source in step.inputs}
        dropped: dict[str, list[str]] = {}
        for source, user in last.items():
            if source in steps and source not in held:
                dropped.setdefault(user, []).append(source)
        self.steps = [(name, step, tuple(dropped.get(name, ()))) for name, step in steps.items()]

    def run(self, given: Mapping[str, Any], watch: Callable[[str, Any], None] | None = None) -> dict[str, Any]:
        """The values given, those held, and the last one; ``watch`` is shown every value."""
        values = dict(given)
        for name, step, dropped in self.steps:
            values[name] = step.run(values)
            if watch is not None:
                watch(name, values[name])
            for source in dropped:
                del values[source]
        return values

    def peak(self, size: Mapping[str, int]) -> int:
        """Most bytes of values that are alive at once, beside those given."""
        alive = most = 0
        for name, _, dropped in self.steps:
            alive += size.get(name, 0)
            most = max(most, alive)
            alive -= sum(size.get(source, 0) for source in dropped)
        return most


def users_of(steps: Mapping[str, Step]) -> dict[str, list[str]]:
    """The steps that read each value."""
    users: dict[str, list[str]] = {}
    for name, step in steps.items():
        for source in step.inputs:
            users.setdefault(source, []).append(name)
    return users


class Program:
    """Steps by the name of their value, in an order in which they can be run.

    Args:
        image, output: names of the input and of the last value.
        steps: all of them.
        fold: whether unchanged convolutions and what follows them are re-run as one step, equal up to rounding.
    """

    def __init__(self, image: str, output: str, steps: Mapping[str, Step], *, fold: bool = False) -> None:
        self.image, self.output, self.steps = image, output, dict(steps)
        self._may_fold = fold
        self._folded: dict[tuple[int, int], tuple[Step, Step, Step | None]] = {}

    def readers(self, tensor: str) -> list[str]:
        """The steps that a tensor of the network's state takes part in (several if a module is used twice)."""
        return [name for name, step in self.steps.items() if tensor in step.tensors]

    def record(self, kept: Collection[str]) -> Plan:
        """Run everything; the values in ``kept``, and the output, are held."""
        return Plan(self.steps, {*kept, self.output})

    def whole(self) -> Plan:
        """Run everything as `rerun` would, without recorded values."""
        return Plan(self._fold(dict(self.steps), {}) if self._may_fold else self.steps, {self.output})

    def rerun(self, changed: Mapping[str, Step], kept: Collection[str]) -> Plan:
        """Run what lies downstream of changed steps, given the recorded values of ``kept`` and the image.

        Recorded values that are needed and were not kept are recomputed.
        """
        new = set(changed)
        for name, step in self.steps.items():
            if any(source in new for source in step.inputs):
                new.add(name)
        needed = set(new)
        for name in reversed(self.steps):
            if name in needed:
                needed.update(s for s in self.steps[name].inputs if s in self.steps and (s in new or s not in kept))
        steps = {name: changed.get(name, step) for name, step in self.steps.items() if name in needed}
        return Plan(self._fold(steps, changed) if self._may_fold else steps, {self.output})

    def outline(self, image: torch.Tensor) -> dict[str, Any]:
        """Every value for this image ``[N, C, H, W]``, tensors without their contents (on torch's ``meta`` device)."""
        return self.outlined(image)[1]

    def outlined(self, image: torch.Tensor) -> tuple[Any, dict[str, Any]]:
        """The output for this image, and its `outline`."""
        found: dict[str, Any] = {self.image: image.to("meta")}

        def watch(name: str, value: Any) -> None:
            found[name] = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), value)

        return self.record(()).run({self.image: image}, watch)[self.output], found

    def _fold(self, steps: dict[str, Step], changed: Mapping[str, Step]) -> dict[str, Step]:
        """Make one step of each convolution and what follows it unchanged, if nothing else needs its value."""
        users = users_of(steps)
        for name in list(steps):
            for source in reversed(steps[name].inputs):
                if source not in steps or len(users[source]) > 1 or name in changed:
                    continue
                if (both := self._together(steps[source], steps[name], source)) is not None:
                    steps[name] = both
                    del steps[source]
        return steps

    def _together(self, before: Step, step: Step, part: str) -> Step | None:
        """`prrmse.engine.steps.folded`, once for the same two steps."""
        key = id(before), id(step)
        if key not in self._folded:
            self._folded[key] = before, step, folded(before, step, part)  # kept, or others could get their ids
        return self._folded[key][2]


def norms_behind(program: Program, network: nn.Module) -> dict[str, str]:
    """Paths of the batch normalisations that alone read a convolution's value, by the path of that convolution.

    Both are modules of torch's kinds, or called as functions with all their tensors, and run once.

    Args:
        program: as traced.
        network: of which.
    """
    users = users_of(program.steps)
    found: list[tuple[str, str]] = []
    for name, call in program.steps.items():
        readers = users.get(name, [])
        norm = program.steps[readers[0]] if len(readers) == 1 else None
        if not isinstance(call, Call) or not isinstance(norm, Call):
            continue
        into = _owner(call, network, nn.modules.conv._ConvNd, CONVOLVING)
        path = _owner(norm, network, nn.modules.batchnorm._BatchNorm, {F.batch_norm})
        if into is not None and path is not None:
            found.append((into, path))
    often = Counter(path for pair in found for path in pair)
    return {into: path for into, path in found if often[into] == often[path] == 1}


def _owner(call: Call, network: nn.Module, kind: type[nn.Module], functions: Collection[object]) -> str | None:
    """The path of the module of a kind that a step is, or all of whose tensors it gives to one of some functions."""
    if isinstance(call.module, kind):
        return str(call.node.target)
    tensors = attributes_of(call) if call.node.target in functions else None
    if not tensors:
        return None
    path = tensors[0].rpartition(".")[0]
    module = network.get_submodule(path)
    own = {f"{path}.{name}" for name in module.state_dict() if name != "num_batches_tracked"}
    return path if isinstance(module, kind) and set(tensors) == own else None


def attributes_of(call: Call) -> list[str] | None:
    """The tensors of the network's state that a function takes beside its first argument; None if it takes others."""
    nodes = call.node.all_input_nodes[1:]
    return [str(node.target) for node in nodes] if all(node.op == "get_attr" for node in nodes) else None


class AllocatedBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {storage_of(leaf) for leaf in pytree.tree_leaves((args, kwargs))}
        made = {storage_of(leaf): leaf.nbytes for leaf in pytree.tree_leaves(result) if storage_of(leaf)}
        self.bytes += sum(size for storage, size in made.items() if storage not in given)
        return result


def storage_of(value: Any) -> int:
    """Where a tensor's contents lie; 0 for what has no such place."""
    has_storage = isinstance(value, torch.Tensor) and value.layout is torch.strided
    return value.untyped_storage().data_ptr() if has_storage else 0


def largest_step(program: Program, image: torch.Tensor) -> int:
    """Most bytes that a step reads, makes on its way and leaves, for this image; without the network's tensors.

    Args:
        program: run before (`Program.outline`), so that what steps keep of the network's tensors is made already.
        image: ``[N, C, H, W]``.
    """
    values: dict[str, Any] = {program.image: image}
    most = 0
    for name, step, dropped in program.record(()).steps:
        with AllocatedBytes() as made:
            values[name] = step.run(values)
        most = max(most, made.bytes + sum(size_of(values[source]) for source in step.inputs))
        for source in dropped:
            del values[source]
    return most


def size_of(value: Any) -> int:
    """Bytes of the tensors in a value."""
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor))
