"""Record which operations a network does, as a program."""

from __future__ import annotations

import contextlib
import copy
import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from prrmse.engine.program import Program
from prrmse.engine.steps import Call, Step

# Of the module operator: iadd, imul and so on.
IN_PLACE = {"setitem", *(name for name in dir(operator) if name[0] == "i" and hasattr(operator, name[1:]))}
# What is alike for each of these numbers of images is taken to be so for any.
BATCHES = (1, 3)
# What can be asked of a tensor that does not depend on what it holds.
ABOUT_SHAPES = {
    "shape", "size", "ndim", "dim", "ndimension", "numel", "nelement", "dtype", "device", "layout", "stride",
    "is_cuda", "is_sparse", "is_quantized", "is_nested", "is_meta", "requires_grad", "element_size",
    "is_floating_point", "is_complex", "is_contiguous", "get_device", torch.is_floating_point, torch.is_complex,
    torch.numel, torch.is_tensor,
}  # fmt: skip


class TracingError(ValueError):
    """The network cannot be written as a fixed list of operations."""


def trace(network: nn.Module, image: torch.Tensor) -> Program:
    """The operations of a copy of the network in evaluation mode, by torch.fx (Reed et al. 2022).

    They hold for any number of images of this size. Questions about shapes are answered while tracing, so that the
    network's ``forward`` may branch and loop on them; where an answer depends on the number of images, it stays a value
    of the program.

    Args:
        network: unchanged afterwards; the program holds the copy and its tensors.
        image: any input of the right shape, ``[N, C, H, W]``.

    Raises:
        TracingError: control flow that depends on values or on the number of images, an operation that changes a value
            in place, or more than one input.
    """
    network = copy.deepcopy(network).eval()
    place = next((tensor.device for tensor in network.parameters()), image.device)
    for part in network.modules():
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    tracer = _Tracer(image.to(place))
    try:
        with _known_as_tensors(), torch.no_grad():
            graph = fx.GraphModule(network, tracer.trace(network)).graph
    except Exception as e:
        raise TracingError(f"torch.fx cannot trace {type(network).__name__}: {' '.join(str(e).split())}") from e
    finally:
        tracer.forget()
    graph.eliminate_dead_code()
    modules = dict(network.named_modules())
    image_name, output, steps = "", "", dict[str, Step]()
    for node in graph.nodes:
        target = getattr(node.target, "__name__", str(node.target))
        _without_inplace(node)
        if (
            target in IN_PLACE
            or "out" in node.kwargs
            or (node.op.startswith("call") and target.endswith("_") and not target.endswith("__"))
        ):
            raise TracingError(f"{type(network).__name__}: {node.name} changes a value in place")
        if node.op == "placeholder":
            if image_name:
                raise TracingError(f"{type(network).__name__}: has a second input, {node.target}")
            image_name = node.name
        else:
            module = modules[str(node.target)] if node.op == "call_module" else None
            constant = _attribute(network, str(node.target)) if node.op == "get_attr" else None
            steps[node.name] = Call(node, module, constant)
        if node.op == "output":
            output = node.name
    return Program(image_name, output, steps)


def _attribute(network: nn.Module, path: str) -> Any:
    value: Any = network
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _without_inplace(node: fx.Node) -> None:
    """``F.relu(x, inplace=True)`` as ``F.relu(x)``."""
    if node.op != "call_function":
        return
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # written in C
        return
    if "inplace" in names:
        position = names.index("inplace")
        if len(node.args) > position:
            node.args = (*node.args[:position], False, *node.args[position + 1 :])
        elif "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}


class _Value(fx.Proxy):
    """A value of the program, which knows an example of itself for each of `BATCHES`.

    Args:
        examples: of which only shapes and the like are looked at.
        of_contents: whether it depends on what tensors hold, so that no question about it can be answered.
    """

    def __init__(self, node: fx.Node, tracer: _Tracer, examples: tuple[Any, ...], of_contents: bool) -> None:
        super().__init__(node, tracer)
        self.examples, self.of_contents = examples, of_contents

    def __getattr__(self, name: str) -> Any:
        if callable(getattr(self.examples[0], name)):
            return fx.proxy.Attribute(self, name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __iter__(self) -> Iterator[Any]:
        # By the operator, which the proxy overloads: it is recorded.
        return iter([operator.getitem(self, i) for i in range(len(self))])

    def __len__(self) -> int:
        return int(self._answer(len, of_contents=self.of_contents and not isinstance(self.examples[0], torch.Tensor)))

    def __bool__(self) -> bool:
        return bool(self._answer(bool, of_contents=self.of_contents))

    def __int__(self) -> int:
        return int(self._answer(int, of_contents=self.of_contents))

    def __index__(self) -> int:
        return int(self._answer(operator.index, of_contents=self.of_contents))

    def __float__(self) -> float:
        return float(self._answer(float, of_contents=self.of_contents))

    def _answer(self, question: Callable[[Any], Any], *, of_contents: bool) -> Any:
        answers: set[Any] = set() if of_contents else {question(example) for example in self.examples}
        if len(answers) != 1:
            on = "what tensors hold" if of_contents else "the number of images"
            raise TracingError(f"its control flow depends on {on} ({self.node.name})")
        return answers.pop()


@contextlib.contextmanager
def _known_as_tensors() -> Iterator[None]:
    """Two questions that torch.fx does not see are answered for values as they are for tensors."""
    as_tensor, is_instance = torch.as_tensor, torch.jit.isinstance

    def is_tensor(data: Any) -> bool:
        return isinstance(data, _Value) and isinstance(data.examples[0], torch.Tensor)

    def as_tensor_too(data: Any, *args: Any, **kwargs: Any) -> Any:
        return data if is_tensor(data) and not (args or kwargs) else as_tensor(data, *args, **kwargs)

    def is_instance_too(data: Any, kind: Any) -> bool:
        return kind is torch.Tensor if is_tensor(data) else is_instance(data, kind)  # type: ignore[no-untyped-call]

    with (
        mock.patch.object(torch, "as_tensor", as_tensor_too),
        mock.patch.object(torch.jit, "isinstance", is_instance_too),
    ):
        yield


class _Tracer(fx.Tracer):
    """Does every operation on examples too. An answer that is alike for all, and about shapes only, is no value."""

    # Buffers too are values of the graph: what is computed from them is no constant, since they can be swapped.
    proxy_buffer_attributes = True

    def __init__(self, image: torch.Tensor) -> None:
        einops = sys.modules.get("einops")  # asks for the type of its argument, so it is not looked into
        names = ("rearrange", "reduce", "repeat") if einops else ()
        super().__init__(autowrap_functions=tuple(getattr(einops, name) for name in names))
        self._scratch: dict[torch.dtype, torch.Tensor] = {}
        self._images: tuple[torch.Tensor, ...] = tuple(
            self._emptied(torch.cat([image[:1]] * number)) for number in BATCHES
        )
        self._doing = False

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,  # noqa: ARG002 (of torch.fx)
    ) -> Any:
        if kind == "placeholder" and args:
            return args[0]  # an argument with a default
        positional: Any = self.create_arg(args)
        named: Any = self.create_arg(kwargs)
        node = self.create_node(kind, target, positional, named, name, type_expr)
        if kind == "placeholder":
            return _Value(node, self, self._images, of_contents=True)
        examples = tuple(self._done(kind, target, args, kwargs, i) for i in range(len(BATCHES)))
        question = args[1] if target is getattr else target
        leaves = pytree.tree_leaves((args, kwargs))
        reads = any(isinstance(x, torch.Tensor) or (isinstance(x, _Value) and x.of_contents) for x in leaves)
        return self._value(
            node, examples, of_contents=kind == "call_module" or (reads and question not in ABOUT_SHAPES)
        )

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).__module__.startswith("einops.") or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self._doing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._doing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def _done(self, kind: str, target: Any, args: Any, kwargs: Any, example: int) -> Any:
        """What the operation makes of the examples for one of `BATCHES`."""
        args, kwargs = pytree.tree_map_only(_Value, lambda value: value.examples[example], (args, kwargs))
        self._doing = True
        try:
            if kind == "get_attr":
                return _attribute(self.root, target)
            if kind == "call_module":
                made = self.root.get_submodule(target)(*args, **kwargs)
            elif kind == "call_method":
                made = getattr(args[0], target)(*args[1:], **kwargs)
            else:
                made = target(*args, **kwargs)
        finally:
            self._doing = False
        return pytree.tree_map_only(torch.Tensor, self._emptied, made)

    def forget(self) -> None:
        """Free the examples now: torch.fx leaves cycles of references, which hold them for long."""
        self._images = ()
        self._scratch.clear()

    def _emptied(self, tensor: torch.Tensor) -> torch.Tensor:
        """The like of it in memory that all share, as only shapes matter; indices and masks keep what they hold."""
        if not tensor.is_floating_point() or tensor.layout is not torch.strided:
            return tensor
        extent = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
        held = self._scratch.get(tensor.dtype)
        if held is None or len(held) < extent:
            held = self._scratch[tensor.dtype] = tensor.new_zeros(max(extent, 1))
        return held.as_strided(tensor.shape, tensor.stride())

    def _value(self, node: fx.Node, examples: tuple[Any, ...], of_contents: bool) -> Any:
        """What the network goes on with: containers of values are containers, what is alike for all is itself."""
        first = examples[0]
        if isinstance(first, torch.Tensor):
            return _Value(node, self, examples, of_contents=True)
        if isinstance(first, dict) and all(example.keys() == first.keys() for example in examples):
            return type(first)((key, self._item(node, examples, key, of_contents)) for key in first)
        if isinstance(first, tuple | list) and len({len(example) for example in examples}) == 1:
            items = [self._item(node, examples, i, of_contents) for i in range(len(first))]
            if hasattr(first, "_fields"):
                return type(first)(*items)
            return items if isinstance(first, list) else tuple(items)
        if not of_contents and all(type(example) is type(first) and example == first for example in examples):
            return first
        return _Value(node, self, examples, of_contents)

    def _item(self, node: fx.Node, examples: tuple[Any, ...], key: Any, of_contents: bool) -> Any:
        item = self.create_node("call_function", operator.getitem, (node, key), {})
        return self._value(item, tuple(example[key] for example in examples), of_contents)
