"""Rewrite a traced network so that a sweep shares more and moves less. Equal up to the rounding of float32.

Each rewrite has a name, by which it can be left out (`python bench/run.py --only ablation` shows what each one brings):

- ``normalisation``: a convolution, the batch normalisation and the ReLU after it become two steps, with the
  convolution's raw value between them: a swap of its bias or of a BN tensor re-runs the second only.
- ``folding``: where neither of the two is swapped they become one.
- ``concatenation``: a convolution over concatenated feature maps becomes a sum of convolutions of each: the part that a
  skip connection brings does not change when something deeper is swapped.
- ``resize_1x1``, ``resize``: a 1x1 or larger convolution of a resized feature map mixes channels before resizing, where
  that is much less work.
- ``winograd``: a 3x3 convolution of many channels is done by Winograd's transforms, on a CPU.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from prrmse.engine.program import Program, users_of
from prrmse.engine.steps import Affine, Call, Conv, ConvThenResize, ResizeThenConv, Step, Sum
from prrmse.engine.winograd import winograd
from prrmse.learning.separable import matrices

REWRITES = ("normalisation", "folding", "concatenation", "resize_1x1", "resize", "winograd")
# Less work by this factor, or the small matrices are not worth it (`make bench` on two cores).
RESIZED_GAIN = 2.5
# A product of Winograd's transforms takes the time of this many of a convolution's; and less work by this factor.
TRANSFORM_COST, WINOGRAD_GAIN = 3.0, 1.75
LINEAR_MODES = {"nearest", "nearest-exact", "bilinear", "bicubic"}


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
        outline: all its values for some image (`prrmse.engine.program.Program.outline`), which tell the shapes.
        dtype: of the convolutions.
        device: where the network is.
        without: rewrites to leave out, of `REWRITES`.
    """
    assert set(without) <= set(REWRITES), without
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
        self.calls: dict[str, Call] = {n: s for n, s in program.steps.items() if isinstance(s, Call)}
        self.users = users_of(self.calls)
        modules = [step.module for step in self.calls.values() if step.module is not None]
        self.used_once = {id(m) for m in modules if sum(m is other for other in modules) == 1}

    def result(self) -> Program:
        steps: dict[str, Step] = {}
        done: set[str] = set()
        for name, call in self.calls.items():
            if name in done:
                continue
            conv = call.module
            if self._is(call, nn.Conv2d) and isinstance(conv, nn.Conv2d) and conv.padding_mode == "zeros":
                norm, relu = self._what_follows(name)
                done.update(n for n in (norm, relu) if n)
                steps.update(self._block(name, conv, norm, relu))
            else:
                steps[name] = call
        needed = self._needed(steps)
        return Program(self.program.image, self.program.output, needed, fold="folding" not in self.without)

    def _is(self, call: Call, kind: type[nn.Module]) -> bool:
        """Exactly this module, used once, without hooks: so what it computes is known."""
        module = call.module
        return (
            type(module) is kind
            and id(module) in self.used_once
            and not (module._forward_hooks or module._forward_pre_hooks)
            and len(call.node.all_input_nodes) == 1
        )

    def _only_user(self, name: str) -> str | None:
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and users[0] != self.program.output else None

    def _what_follows(self, conv: str) -> tuple[str | None, str | None]:
        """Names of the batch normalisation and of the ReLU that alone read the convolution, if there are such."""
        if "normalisation" in self.without:
            return None, None
        norm = self._only_user(conv)
        if norm is not None:
            module = self.calls[norm].module
            known = self._is(self.calls[norm], nn.BatchNorm2d)
            norm = norm if known and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None else None
        relu = self._only_user(norm or conv)
        return norm, relu if relu is not None and _is_relu(self.calls[relu]) else None

    def _block(self, name: str, conv: nn.Conv2d, norm: str | None, relu: str | None) -> dict[str, Step]:
        """The steps of a convolution and what follows it."""
        call, last = self.calls[name], relu or norm or name
        path = str(call.node.target)
        has_affine = norm is not None or relu is not None or conv.bias is not None
        raw = f"{name}:raw" if has_affine else name
        steps: dict[str, Step] = {}
        parts = self._parts(call.inputs[0], conv)
        for i, (source, first, last_channel) in enumerate(parts):
            weight = conv.weight.detach().to(self.dtype)
            geometry = conv.stride, conv.padding, conv.dilation, conv.groups
            step = Conv(source, path, weight, first, last_channel, *geometry).replaced(f"{path}.weight", weight)
            steps[raw if len(parts) == 1 else f"{name}:{i}"] = self._before_resizing(step) or self._transformed(step)
        if len(parts) > 1:
            steps[raw] = Sum(tuple(steps))
        if has_affine:
            steps[last] = self._affine(raw, path, conv, norm, relu is not None)
        return steps

    def _affine(self, raw: str, path: str, conv: nn.Conv2d, norm: str | None, relu: bool) -> Affine:
        state, bias, norm_path, eps = {}, None, None, 0.0
        if conv.bias is not None:
            bias = f"{path}.bias"
            state[bias] = conv.bias.detach().float()
        if norm is not None:
            norm_path, module = str(self.calls[norm].node.target), self.calls[norm].module
            assert isinstance(module, nn.BatchNorm2d)
            eps = module.eps
            state |= {
                f"{norm_path}.{key}": value.detach().float()
                for key, value in module.state_dict().items()
                if key != "num_batches_tracked"
            }
        return Affine(raw, state, bias, norm_path, eps, relu)

    def _transformed(self, step: Conv) -> Conv:
        """With Winograd's transforms, where the products outweigh them; a GPU's libraries do that themselves."""
        on_cpu = (self.device.type, self.dtype) == ("cpu", torch.float32)
        if "winograd" in self.without or not on_cpu:
            return step
        outputs, inputs, *kernel = step.weight.shape
        if isinstance(step.padding, str) or step.stride != (1, 1) or step.groups != 1 or kernel != [3, 3]:
            return step
        found = winograd(self.outline[step.source].shape[-2:], step.padding, step.dilation)
        points, pixels = found.b_t.shape
        transforms = points * (pixels * inputs + len(found.a_t) * outputs)
        products = found.tiles * (points * inputs * outputs + TRANSFORM_COST * transforms)
        direct = found.rows.out * found.columns.out * 9 * inputs * outputs
        return replace(step, winograd=found) if direct > WINOGRAD_GAIN * products else step

    def _parts(self, source: str, conv: nn.Conv2d) -> list[tuple[str, int, int]]:
        """(value, first and last input channel) of what is concatenated; the whole, if nothing is."""
        call = self.calls.get(source)
        whole = [(source, 0, conv.in_channels // conv.groups)]
        if call is None or conv.groups != 1 or call.node.target not in (torch.cat, torch.concat) or not call.node.args:
            return whole
        dim = call.node.kwargs.get("dim", call.node.args[1] if len(call.node.args) > 1 else 0)
        concatenated: Any = call.node.args[0]
        names = [node.name for node in concatenated]
        if "concatenation" in self.without or dim not in (1, -3) or len(names) < 2:
            return whole
        parts, first = [], 0
        for name in names:
            channels = self.outline[name].shape[1]
            parts.append((name, first, first + channels))
            first += channels
        return parts

    def _before_resizing(self, step: Conv) -> ResizeThenConv | ConvThenResize | None:
        """The convolution from the feature map before it was resized, if that is much less work."""
        resize = self.calls.get(step.source)
        if resize is None or not _is_linear_resize(resize) or step.groups != 1 or isinstance(step.padding, str):
            return None
        source = str(resize.node.args[0])
        small, large = self.outline[source], self.outline[step.source]
        (h, w), kernel = small.shape[-2:], step.weight.shape[-2:]
        resizing = matrices(lambda part: resize.run({**self.outline, source: part}), h, w)
        geometries = zip(kernel, step.stride, step.padding, step.dilation, strict=True)
        shifted = [_shifted(matrix, *geometry) for matrix, geometry in zip(resizing, geometries, strict=True)]
        (rows, columns), (inputs, outputs) = shifted, step.weight.shape[1::-1]  # rows, columns: (k, out, in)
        high, wide, taps = rows.shape[1], columns.shape[1], kernel[0] * kernel[1]
        direct = high * wide * taps * inputs * outputs
        resized = (h * kernel[0] * w * kernel[1] + high * kernel[0] * h) * wide * outputs
        mixed_first = h * w * taps * inputs * outputs + resized
        if mixed_first * RESIZED_GAIN > direct or not self._is_separable(resize, source, *resizing):
            return None
        if tuple(kernel) == (1, 1) and (high, wide) == tuple(large.shape[-2:]):
            return None if "resize_1x1" in self.without else ConvThenResize(replace(step, source=source), resize)
        if "resize" in self.without:
            return None
        by_column = columns.permute(1, 2, 0).reshape(wide, -1)  # (W, w * kW)
        by_row = rows.transpose(0, 1).reshape(high, -1)  # (H, kH * h)
        by_row, by_column = (matrix.to(self.device, self.dtype).contiguous() for matrix in (by_row, by_column))
        return ResizeThenConv(step, source, by_row, by_column)

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


def _is_relu(call: Call) -> bool:
    if call.node.op == "call_module":
        return type(call.module) is nn.ReLU
    return call.node.target in (F.relu, torch.relu, "relu")


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
