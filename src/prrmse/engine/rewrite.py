"""Rewrite a traced network so that a sweep shares more and moves less. Equal up to the rounding of float32.

Each rewrite has a name, by which it can be left out (`python bench/run.py --only ablation` shows what each one brings):

- ``normalisation``: a convolution, the batch normalisation and the activation after it become two steps, with the
  convolution's raw value between them: a swap of its bias or of a BN tensor re-runs the second only.
- ``instance``: so with instance normalisation, in float32 on a CPU, where it is computed faster, too.
- ``folding``: where the second is not swapped the two become one.
- ``sum``: a sum of two feature maps, of a residual connection or of the rewrite ``concatenation``, and the activation
  after it become one step, and where one of the two is re-run, one with the convolution that it comes from.
- ``concatenation``: a convolution over concatenated feature maps becomes a sum of convolutions of each: the part that a
  skip connection brings does not change when something deeper is swapped.
- ``resize_1x1``, ``resize``: a 1x1 or larger convolution of a resized feature map mixes channels before resizing, where
  that is much less work; on a CPU, a 3x3 one of a map enlarged by a whole factor becomes a transposed convolution and a
  depthwise filter.
- ``winograd``: a 3x3 convolution of many channels is done by Winograd's transforms, on a CPU.

Convolutions and batch normalisations, of 2D and 3D, are recognised as torch's modules, and as calls of its functions
with tensors of the network (so timm writes them). Instance normalisation is recognised as a module only. Resizing and
Winograd's transforms are for 2D.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional as F

from prrmse.engine.onednn import Activation, Convolution
from prrmse.engine.program import Program, attributes_of, users_of
from prrmse.engine.resizing import PASS_COST, Axis, EnlargedConvolution, ResizedConvolution
from prrmse.engine.steps import Affine, Call, Conv, ConvThenResize, InstanceNorm, Step, Sum
from prrmse.engine.winograd import winograd
from prrmse.learning.evaluate import layout_of
from prrmse.learning.separable import matrices

REWRITES = ("normalisation", "instance", "folding", "sum", "concatenation", "resize_1x1", "resize", "winograd")
# Less time by this factor (`prrmse.engine.resizing`), or it is not done before resizing.
RESIZED_GAIN = 1.5
# A product of Winograd's transforms takes the time of this many of a convolution's; and less work by this factor.
TRANSFORM_COST, WINOGRAD_GAIN = 3.0, 1.75
ADDING: set[object] = {operator.add, torch.add, "add"}
LINEAR_MODES = {"nearest", "nearest-exact", "bilinear", "bicubic"}
# What does nothing in evaluation mode.
IDENTITIES = {nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d}
CONV_TENSORS, NORM_TENSORS = {"weight", "bias"}, {"running_mean", "running_var", "weight", "bias"}
CONV_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
GEOMETRY = {"stride": 1, "padding": 0, "dilation": 1}
NORM_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class _Kernel(NamedTuple):
    """A convolution: the path of its module, its tensors, and how it is done."""

    path: str
    weight: torch.Tensor
    bias: torch.Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int

    @classmethod
    def of(
        cls,
        path: str,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
    ) -> _Kernel:
        """With a number for each axis, as torch does not need it."""
        axes = weight.ndim - 2
        around = padding if isinstance(padding, str) else _each(padding, axes)
        return cls(path, weight, bias, _each(stride, axes), around, _each(dilation, axes), groups)


class _Norm(NamedTuple):
    """A normalisation by running statistics, or by the image's own: of which module, its tensors by name, eps."""

    path: str
    state: dict[str, torch.Tensor]
    eps: float
    instance: bool = False


class _Given(NamedTuple):
    """What a function is given: tensors of one module by their names in it, and other values that are not None."""

    path: str
    tensors: dict[str, torch.Tensor]
    others: dict[str, Any]


class _After(NamedTuple):
    """What alone reads a value, one after the other: a normalisation, an activation, and all of their names."""

    norm: _Norm | None
    activation: Activation | None
    names: tuple[str, ...]


def rewrite(
    program: Program,
    outline: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    *,
    without: Collection[str] = (),
) -> Program:
    """The same network in fewer, larger and more shareable steps.

    Args:
        program: as traced.
        outline: all its values for several images (`prrmse.engine.program.Program.outline`), which tell the shapes;
            of one image all would have the size of what is the same for every image.
        dtype: of the convolutions.
        device: where the network is.
        without: rewrites to leave out, of `REWRITES`.
    """
    assert set(without) <= set(REWRITES), without
    assert len(outline[program.image]) > 1
    with torch.autocast(device.type, enabled=False):  # the matrices of resizing are float32
        return _Rewriter(program, outline, dtype, device, without).result()


class _Rewriter:
    def __init__(
        self,
        program: Program,
        outline: Mapping[str, Any],
        dtype: torch.dtype,
        device: torch.device,
        without: Collection[str],
    ) -> None:
        self.program, self.outline, self.dtype, self.device = program, outline, dtype, device
        self.without = without
        self._float32_on_cpu = (device.type, dtype) == ("cpu", torch.float32)
        self.calls: dict[str, Call] = {n: s for n, s in program.steps.items() if isinstance(s, Call)}
        self.users = users_of(self.calls)
        modules = [step.module for step in self.calls.values() if step.module is not None]
        self.used_once = {id(m) for m in modules if sum(m is other for other in modules) == 1}
        self.steps: dict[str, Step] = {}  # made so far

    def result(self) -> Program:
        done: set[str] = set()
        for name, call in self.calls.items():
            if name in done:
                continue
            if (kernel := self._kernel(call)) is not None:
                after = self._what_follows(name, kernel.path)
                self.steps.update(self._block(name, kernel, after))
                done.update(after.names)
            elif (found := self._sum(name, call)) is not None:
                self.steps[found[0]] = found[1]
                done.add(found[0])
            else:
                self.steps[name] = call
        needed = self._needed(self.steps)
        return Program(self.program.image, self.program.output, needed, fold="folding" not in self.without)

    def _is(self, call: Call, *kinds: type[nn.Module]) -> bool:
        """Such a module as torch has it, used once: so what it computes is known."""
        return (
            type(call.module) in kinds
            and id(call.module) in self.used_once
            and _is_plain(call.module)
            and len(call.node.all_input_nodes) == 1
        )

    def _kernel(self, call: Call) -> _Kernel | None:
        """The 2D or 3D convolution that a call is, with zeros around the image."""
        conv = call.module
        if self._is(call, nn.Conv2d, nn.Conv3d) and isinstance(conv, nn.Conv2d | nn.Conv3d):
            if conv.padding_mode != "zeros":
                return None
            path, weight, bias, groups = str(call.node.target), conv.weight, conv.bias, conv.groups
            return _Kernel.of(path, weight, bias, conv.stride, conv.padding, conv.dilation, groups)
        found = self._tensors_of(call, (F.conv2d, F.conv3d), CONV_ARGUMENTS, CONV_TENSORS)
        if found is None or "weight" not in found.tensors:
            return None
        stride, padding, dilation = (found.others.get(key, default) for key, default in GEOMETRY.items())
        weight, bias = found.tensors["weight"], found.tensors.get("bias")
        return _Kernel.of(found.path, weight, bias, stride, padding, dilation, found.others.get("groups", 1))

    def _norm(self, call: Call) -> _Norm | None:
        """The batch normalisation by running statistics, or the instance normalisation, that a call is."""
        module = call.module
        if (
            isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d)
            and self._is(call, nn.InstanceNorm2d, nn.InstanceNorm3d)
            and not module.track_running_stats
        ):
            return self._instance_norm(str(call.node.target), module)
        if self._is(call, nn.BatchNorm2d, nn.BatchNorm3d) and isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            state = {key: value for key, value in module.state_dict().items() if key != "num_batches_tracked"}
            path, eps = str(call.node.target), module.eps
        else:
            found = self._tensors_of(call, (F.batch_norm,), NORM_ARGUMENTS, NORM_TENSORS)
            if found is None or found.others.get("training", False) is not False:
                return None
            path, state, eps = found.path, found.tensors, found.others.get("eps", 1e-5)
        if not {"running_mean", "running_var"} <= set(state):
            return None
        return _Norm(path, {f"{path}.{key}": value.detach().float() for key, value in state.items()}, eps)

    def _instance_norm(self, path: str, module: Any) -> _Norm | None:
        if "instance" in self.without or not self._float32_on_cpu:
            return None
        state = {f"{path}.{key}": value.detach().float() for key, value in module.state_dict().items()}
        return _Norm(path, state, module.eps, instance=True)

    def _tensors_of(
        self, call: Call, functions: tuple[Any, ...], names: tuple[str, ...], tensors: set[str]
    ) -> _Given | None:
        """The arguments of a call of a function, if it gets these tensors of one module, under its own names."""
        if call.node.target not in functions or attributes_of(call) is None:
            return None
        given = {**dict(zip(names, call.node.args, strict=False)), **call.node.kwargs}
        image = given["input"]
        if not isinstance(image, fx.Node) or image.name != call.inputs[0]:  # inputs are in the order of arguments
            return None
        nodes = {key: value for key, value in given.items() if isinstance(value, fx.Node) and key != "input"}
        others = {key: value for key, value in given.items() if key not in nodes and key != "input"}
        paths = {str(node.target).removesuffix(f".{key}") for key, node in nodes.items()}
        # Not so of a network that is one module: its tensors are in no module of it.
        own_names = all(str(node.target).endswith(f".{key}") for key, node in nodes.items())
        if not own_names or len(paths) != 1 or not set(nodes) <= tensors:
            return None
        values = {key: self.calls[node.name].constant for key, node in nodes.items()}
        return _Given(paths.pop(), values, {key: value for key, value in others.items() if value is not None})

    def _behind_identities(self, name: str) -> str:
        """The value that modules which do nothing have made this one of."""
        while isinstance(call := self.steps.get(name), Call) and _is_identity(call):
            name = call.inputs[0]
        return name

    def _only_user(self, name: str) -> str | None:
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and users[0] != self.program.output else None

    def _what_follows(self, name: str, kernel: str) -> _After:
        """A normalisation and an activation that alone read the value of a convolution, of this path.

        Between them may be what does nothing. A normalisation whose tensors lie in the convolution's module is left
        alone: names would not tell one bias from the other.
        """
        if "normalisation" in self.without:
            return _After(None, None, ())
        found_norm: _Norm | None = None
        activation: Activation | None = None
        names, passed = list[str](), list[str]()
        user = self._only_user(name)
        while user is not None:
            call = self.calls[user]
            passed.append(user)
            if _is_identity(call):
                names = list(passed) if names else names
            elif not (found_norm or activation) and (norm := self._norm(call)) and norm.path != kernel:
                found_norm, names = norm, list(passed)
            elif activation is None and (elementwise := activation_of(call)) is not None:
                activation, names = elementwise, list(passed)
            else:
                break
            user = self._only_user(user)
        return _After(found_norm, activation, tuple(names))

    def _block(self, name: str, kernel: _Kernel, after: _After) -> dict[str, Step]:
        """The steps of a convolution and what follows it."""
        has_affine = bool(after.names) or kernel.bias is not None
        raw, last = f"{name}:raw" if has_affine else name, after.names[-1] if after.names else name
        parts = self._parts(self._behind_identities(self.calls[name].inputs[0]), kernel)
        affine = _affine(raw, kernel, after) if has_affine else None
        convolutions = [self._conv(kernel, *part) for part in parts]
        if len(parts) == 1:
            return {raw: convolutions[0], **({last: affine} if affine else {})}
        names = [f"{name}:{i}" for i in range(len(parts))]
        if not isinstance(affine, Affine) or len(parts) > 2 or "sum" in self.without:
            steps = dict(zip(names, convolutions, strict=True))
            return {**steps, raw: Sum(tuple(names)), **({last: affine} if affine else {})}
        # What follows comes before the sum, so that it can be folded into each of the two.
        raws = [f"{part}:raw" for part in names]
        affines = dict(zip(names, affine.parts(raws), strict=True))
        return {**dict(zip(raws, convolutions, strict=True)), **affines, last: Sum(tuple(names), affine.activation)}

    def _conv(self, kernel: _Kernel, source: str, first: int, last: int) -> Step:
        """The convolution of a part of the input channels."""
        weight = kernel.weight.detach().to(self.dtype)[:, first:last]
        weight = weight.contiguous(memory_format=layout_of(weight.ndim))
        made = Convolution(weight, None, kernel.stride, kernel.padding, kernel.dilation, kernel.groups)
        step = Conv(source, kernel.path, made, first, last)
        return self._before_resizing(step) or self._transformed(step)

    def _sum(self, name: str, call: Call) -> tuple[str, Sum] | None:
        """The sum of two feature maps of one size that a call is, and an activation that alone reads it; its name."""
        if "sum" in self.without or call.module is not None or call.node.target not in ADDING:
            return None
        if call.node.kwargs or len(call.node.args) != 2 or len(call.inputs) != 2:
            return None
        one, other = (self.outline[name] for name in call.inputs)
        if not all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in (one, other)):
            return None
        if one.ndim not in (4, 5) or (one.shape, one.dtype) != (other.shape, other.dtype):
            return None
        # A sum has the memory format of the first, which a view of it may rely on; a convolution has this one.
        if not one.is_contiguous(memory_format=layout_of(one.ndim)):
            return None
        user = self._only_user(name)
        activation = activation_of(self.calls[user]) if user else None
        inputs = tuple(map(self._behind_identities, call.inputs))
        return user if user and activation else name, Sum(inputs, activation)

    def _transformed(self, step: Conv) -> Conv:
        """With Winograd's transforms, where the products outweigh them; a GPU's libraries do that themselves."""
        if "winograd" in self.without or not self._float32_on_cpu:
            return step
        made = step.kernel
        outputs, inputs, *size = made.weight.shape
        if isinstance(made.padding, str) or made.stride != (1, 1) or made.groups != 1 or size != [3, 3]:
            return step
        found = winograd(self.outline[step.source].shape[-2:], made.padding, made.dilation)
        points, pixels = found.b_t.shape
        transforms = points * (pixels * inputs + len(found.a_t) * outputs)
        products = found.tiles * (points * inputs * outputs + TRANSFORM_COST * transforms)
        direct = found.rows.out * found.columns.out * 9 * inputs * outputs
        if direct <= WINOGRAD_GAIN * products:
            return step
        return replace(step, kernel=replace(made, winograd=found))

    def _parts(self, source: str, kernel: _Kernel) -> list[tuple[str, int, int]]:
        """(value, first and last input channel) of what is concatenated; the whole, if nothing is."""
        call = self.calls.get(source)
        whole = [(source, 0, kernel.weight.shape[1])]
        if (
            call is None
            or kernel.groups != 1
            or call.node.target not in (torch.cat, torch.concat)
            or not call.node.args
        ):
            return whole
        dim = call.node.kwargs.get("dim", call.node.args[1] if len(call.node.args) > 1 else 0)
        concatenated: Any = call.node.args[0]
        names = [node.name for node in concatenated]
        if "concatenation" in self.without or dim not in (1, 1 - kernel.weight.ndim) or len(names) < 2:
            return whole
        parts, first = [], 0
        for name in names:
            channels = self.outline[name].shape[1]
            parts.append((self._behind_identities(name), first, first + channels))
            first += channels
        return parts

    def _before_resizing(self, step: Conv) -> Conv | ConvThenResize | None:
        """The convolution from the feature map before it was resized, if that is much less work."""
        resize = self.calls.get(step.source)
        made = step.kernel
        flat = made.weight.ndim == 4
        if not flat or resize is None or not _is_linear_resize(resize):
            return None
        if made.groups != 1 or isinstance(made.padding, str):
            return None
        source = str(resize.node.args[0])
        small, large = self.outline[source], self.outline[step.source]
        (h, w), kernel = small.shape[-2:], made.weight.shape[-2:]
        resizing = matrices(lambda part: resize.run({**self.outline, source: part}), h, w)
        geometries = zip(kernel, made.stride, made.padding, made.dilation, strict=True)
        rows, columns = (_shifted(matrix, *geometry) for matrix, geometry in zip(resizing, geometries, strict=True))
        ways: list[ResizedConvolution | EnlargedConvolution]
        ways = [ResizedConvolution.by(rows, columns, made.weight, self.device), *self._enlarged(made, *resizing)]
        best = min(ways, key=lambda way: way.time(h, w))
        now = rows.shape[1] * columns.shape[1] * made.weight.numel() + PASS_COST * large[0].numel()
        if best.time(h, w) * RESIZED_GAIN > now or not self._is_separable(resize, source, *resizing):
            return None
        if (tuple(kernel), made.stride, made.padding) == ((1, 1), (1, 1), (0, 0)):
            return None if "resize_1x1" in self.without else ConvThenResize(replace(step, source=source), resize)
        return None if "resize" in self.without else replace(step, source=source, kernel=best)

    def _enlarged(self, made: Convolution, rows: torch.Tensor, columns: torch.Tensor) -> list[EnlargedConvolution]:
        """The convolution and what enlarges a map before it by these matrices as one, if that is what they do."""
        geometry = (tuple(made.weight.shape[2:]), made.padding, made.stride, made.dilation)
        if not self._float32_on_cpu or geometry != ((3, 3), (1, 1), (1, 1), (1, 1)):
            return []
        high, wide = Axis.of(rows), Axis.of(columns)
        return [EnlargedConvolution(made.weight, rows=high, columns=wide)] if high and wide else []

    def _is_separable(self, resize: Call, source: str, rows: torch.Tensor, columns: torch.Tensor) -> bool:
        shape = self.outline[source].shape
        some = torch.linspace(-1, 1, shape[-2] * shape[-1], dtype=torch.float64).cos().view(1, 1, *shape[-2:])
        expected = torch.einsum("Hh,nchw,Ww->ncHW", rows, some, columns)
        return torch.allclose(expected, resize.run({**self.outline, source: some}), atol=1e-5)

    def _needed(self, steps: dict[str, Step]) -> dict[str, Step]:
        """Without what the output does not need any more."""
        needed = {self.program.output}
        for name in reversed(steps):
            if name in needed:
                needed.update(steps[name].inputs)
        return {name: step for name, step in steps.items() if name in needed}


def _affine(raw: str, kernel: _Kernel, after: _After) -> Affine | InstanceNorm:
    state, bias = {}, None
    if kernel.bias is not None:
        bias = f"{kernel.path}.bias"
        state[bias] = kernel.bias.detach().float()
    if after.norm is None:
        return Affine(raw, state, bias, None, 0.0, after.activation)
    if after.norm.instance:
        return InstanceNorm(raw, state | after.norm.state, after.norm.path, after.norm.eps, after.activation)
    return Affine(raw, state | after.norm.state, bias, after.norm.path, after.norm.eps, after.activation)


def activation_of(call: Call) -> Activation | None:
    """The activation that a call is, if `prrmse.engine.onednn` knows it."""
    module = call.module
    if module is None:
        return Activation("relu") if call.node.target in (F.relu, torch.relu, "relu") else None
    if not _is_plain(module):
        return None
    if type(module) is nn.LeakyReLU:
        return Activation("leaky_relu", (module.negative_slope,))
    if type(module) is nn.ReLU6:
        return Activation("hardtanh", (module.min_val, module.max_val))
    known: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.SiLU: "swish", nn.Hardswish: "hardswish"}
    return Activation(known[type(module)]) if type(module) in known else None


def _is_identity(call: Call) -> bool:
    return type(call.module) in IDENTITIES and _is_plain(call.module)


def _is_plain(module: nn.Module | None) -> bool:
    """Whether it computes what its class says in evaluation mode: no hooks, nothing of its own in their place."""
    return (
        module is not None
        and not module.training
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not {"forward", "_conv_forward"} & set(vars(module))
    )


def _each(value: Any, axes: int) -> tuple[int, ...]:
    """Of each axis, where one number may stand for all."""
    numbers = (value,) if isinstance(value, int) else tuple(value)
    return numbers * axes if len(numbers) == 1 else numbers


def _is_linear_resize(call: Call) -> bool:
    if isinstance(call.module, nn.Upsample):
        exact = type(call.module) in (nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
        return exact and call.module.mode in LINEAR_MODES
    return call.node.target is F.interpolate and call.node.kwargs.get("mode", "nearest") in LINEAR_MODES


def _shifted(matrix: torch.Tensor, taps: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """``(taps, out, in)``: row i of tap t is row ``i * stride + t * dilation - padding`` of the matrix, or zero."""
    padded = F.pad(matrix, (0, 0, padding, padding))
    out = (padded.shape[0] - dilation * (taps - 1) - 1) // stride + 1
    return torch.stack([padded[t * dilation :][: (out - 1) * stride + 1 : stride] for t in range(taps)])
