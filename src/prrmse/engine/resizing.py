"""Convolutions of resized feature maps, with products at the pixels before resizing only.

Resizing is linear and the same for every channel, so channels can be mixed first, where there are fewer pixels. In
general (`ResizedConvolution`) what follows is a matrix for each axis, which resizes and shifts.

To enlarge a feature map by a whole factor s, as networks mostly do, is to put s - 1 zeros between its pixels and to
filter the result: bilinear resizing by 2 filters by (1, 3, 3, 1) / 4 along each axis. Filters can be exchanged. So a
3x3 kernel can come first, where all but one of s * s pixels are zeros: it is a transposed convolution then, with as
many products for each small pixel as the plain one has for each large pixel; a depthwise convolution filters the result
(`EnlargedConvolution`).

At the border the two cannot be exchanged: the plain convolution takes zeros for what lies around the enlarged map,
where the filter makes something else of the copies of the outermost pixels that resizing reads. As much is taken away
again, from values that only the outermost pixels of the result are made of.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch.nn import functional as F

from prrmse.engine.onednn import Activation, Convolution

# In products of a large convolution, the time of a product of a small matrix, one of a transposed convolution, one that
# corrects it at the border; to resize or to filter one value. Measured on two cores, of one network's shapes after the
# other.
MATRIX_COST, TRANSPOSED_COST, BORDER_COST, PASS_COST = 2.0, 1.5, 15.0, 50.0


@dataclass(frozen=True)
class Axis:
    """How one axis is enlarged: ``y[i] = sum over j of taps[i - factor * j - first] * x[j]``, with copies at the ends.

    Args:
        matrix: float64 ``(factor * n, n)``, what enlarging is on this axis.
        factor: large pixels for each small one.
        first: where the filter begins, in large pixels from the one at ``factor * j``.
        taps: ``(K,)``, the filter.
    """

    matrix: torch.Tensor
    factor: int
    first: int
    taps: torch.Tensor

    @classmethod
    def of(cls, matrix: torch.Tensor) -> Self | None:
        """What a matrix ``(m, n)`` does, if it is that."""
        (large, small), middle = matrix.shape, matrix.shape[1] // 2
        factor = large // small
        if factor < 2 or factor * small != large:
            return None
        low, high = _span(matrix[:, middle])
        if low == high:
            return None
        found = cls(matrix, factor, low - factor * middle, matrix[low:high, middle].clone())
        is_it = torch.allclose(found._made(), matrix, rtol=0, atol=1e-5)
        # Of both ends as many values are not read, and those that corrections belong to are there.
        fits = found._unread[0] == found._unread[1] and (found.unread >= 0 or not found.corrections)
        return found if is_it and fits else None

    @property
    def copies(self) -> tuple[int, int]:
        """Of the first and of the last small pixel, that the enlarged map is made of as well."""
        large, small = self.matrix.shape
        return max(0, self._last // self.factor), max(0, (large - 1 - self.first) // self.factor - small + 1)

    @property
    def unread(self) -> int:
        """Values at each end of the transposed convolution that no tap reads; if negative, zeros that it lacks."""
        return self._unread[0]

    @cached_property
    def corrections(self) -> list[tuple[int, list[float]]]:
        """For the first and the last value that a tap reads: from which small pixel on, times what.

        What the filter makes of the pixel beside the enlarged map, negative, in units of the only tap that reads this
        value. Empty where both pixels are zero anyway.
        """
        beyond, found = self._made(around=1), []
        for row, tap in ((beyond[0], self.taps[-1]), (beyond[-1], self.taps[0])):
            low, high = _span(row)
            found.append((low, (-row[low:high] / tap).tolist()))
        return found if beyond[[0, -1]].any() else []

    @property
    def _last(self) -> int:
        return self.first + len(self.taps) - 1

    @property
    def _unread(self) -> tuple[int, int]:
        # Of a 3x3 kernel's transposed convolution, a value beyond what the pixels themselves come to.
        (before, after), (large, small) = self.copies, self.matrix.shape
        return self.factor * before + 1 - self._last, self.factor * (small - 1 + after) + 1 - (large - 1 - self.first)

    def _made(self, around: int = 0) -> torch.Tensor:
        """The matrix, from the taps; with as many large pixels around it."""
        (large, small), (before, after) = self.matrix.shape, self.copies
        made = self.matrix.new_zeros(large + 2 * around, small)
        j = torch.arange(-before, small + after)[:, None]
        i = around + self.factor * j + self.first + torch.arange(len(self.taps))
        inside = (i >= 0) & (i < len(made))
        j, taps = (value.expand_as(i)[inside] for value in (j.clamp(0, small - 1), self.taps))
        return made.index_put_((i[inside], j), taps, accumulate=True)


def _span(values: torch.Tensor) -> tuple[int, int]:
    """Where those that are not zero begin and end; the same if there are none."""
    parts = values.nonzero().flatten()
    return (int(parts[0]), int(parts[-1]) + 1) if len(parts) else (0, 0)


@dataclass(eq=False)
class ResizedConvolution(Convolution):
    """A convolution, larger than 1x1, of a feature map ``(N, I, h, w)`` that is resized before it to ``(H', W')``.

    ``y = sum over taps of shift_tap(resize(W_tap x))``.

    Args:
        by_row: ``(H, kH * h)``: resizes and shifts.
        by_column: ``(W, w * kW)``.
    """

    by_row: torch.Tensor = field(kw_only=True)
    by_column: torch.Tensor = field(kw_only=True)

    @classmethod
    def by(cls, rows: torch.Tensor, columns: torch.Tensor, weight: torch.Tensor, device: torch.device) -> Self:
        """Of matrices that resize and shift, for each tap: ``(kH, H, h)`` and ``(kW, W, w)``."""
        by_row, by_column = rows.transpose(0, 1).flatten(1), columns.permute(1, 2, 0).flatten(1)
        by_row, by_column = (matrix.to(device, weight.dtype).contiguous() for matrix in (by_row, by_column))
        return cls(weight, by_row=by_row, by_column=by_column)

    def time(self, h: int, w: int) -> float:
        """What it takes for one map of this size, in products of a large convolution."""
        (outputs, _, kernel, _), (high, wide) = self.weight.shape, (len(self.by_row), len(self.by_column))
        by_matrices = h * kernel * (self.by_column.shape[1] + high) * wide * outputs
        return h * w * self.weight.numel() + MATRIX_COST * by_matrices

    def __call__(
        self, x: torch.Tensor, activation: Activation | None = None, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(N, O, H, W)``, of the map as it is before it is resized."""
        (n, _, h, _), (outputs, _, kernel, _) = x.shape, self.weight.shape
        (wide, by_column), (high, by_row) = self.by_column.shape, self.by_row.shape
        y = self._weight(x)(x).permute(0, 2, 3, 1).reshape(n * h, by_column, -1)  # (N * h, w * kW, kH * O)
        y = torch.bmm(self.by_column.expand(n * h, -1, -1), y)  # (N * h, W, kH * O)
        y = y.view(n, h, wide, kernel, outputs).permute(0, 3, 1, 2, 4).reshape(n, by_row, -1)  # (N, kH * h, W * O)
        rows, bias = self.by_row.expand(n, -1, -1), self.bias
        y = torch.bmm(rows, y) if bias is None else torch.baddbmm(bias.repeat(wide).expand(1, high, -1), rows, y)
        y = y.view(n, high, wide, -1).permute(0, 3, 1, 2)  # (N, O, H, W)
        if added is not None:
            y += added
        return activation(y) if activation else y

    def _prepare(self, x: torch.Tensor) -> Convolution:  # noqa: ARG002 (for inputs of every size)
        """All taps as one 1x1 convolution to ``kW * kH * O`` channels."""
        taps = self.scaled().permute(3, 2, 0, 1).flatten(0, 2)  # (kW * kH * O, I)
        return Convolution(taps[:, :, None, None].contiguous(), swapped=self.swapped)


@dataclass(eq=False)
class EnlargedConvolution(Convolution):
    """A 3x3 convolution, with a pixel of padding, of a feature map ``(N, I, h, w)`` that is enlarged before it.

    Args:
        rows, columns: how it is enlarged.
    """

    rows: Axis = field(kw_only=True)
    columns: Axis = field(kw_only=True)

    def __call__(
        self, x: torch.Tensor, activation: Activation | None = None, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(N, O, H, W)``, of the map as it is before it is enlarged."""
        around = [*self.columns.copies, *self.rows.copies]
        padded = F.pad(x, around, mode="replicate") if any(around) else x
        y = _transposed(padded, self._weight(x), (self.rows, self.columns), 2)
        return self._filter(y, activation, added)

    def time(self, h: int, w: int) -> float:
        """What it takes for one map of this size, in products of a large convolution."""
        pixels = h * self.rows.factor * w * self.columns.factor
        border = BORDER_COST * (h + w) if self.rows.corrections or self.columns.corrections else 0
        transposed = TRANSPOSED_COST * h * w * self.weight.numel() + border * self.weight.numel() / 3
        return transposed + PASS_COST * pixels * len(self.weight)

    @property
    def _scales_outputs(self) -> bool:
        return True

    def _prepare(self, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 (for inputs of every size)
        return self.weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)

    @cached_property
    def _filter(self) -> Convolution:
        """What follows the transposed convolution, with scale and bias."""
        taps = torch.outer(self.rows.taps.flip(0), self.columns.taps.flip(0))
        scale = torch.ones(len(self.weight)) if self.scale is None else self.scale
        kernel = (scale.view(-1, 1, 1, 1) * taps.to(scale)).to(self.weight.dtype)
        lacking = max(0, -self.rows.unread), max(0, -self.columns.unread)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        return Convolution(kernel, self.bias, padding=lacking, groups=len(kernel))


def _transposed(x: torch.Tensor, weight: torch.Tensor, axes: tuple[Axis, ...], corrected: int) -> torch.Tensor:
    """The transposed convolution that the filter of an enlarged map reads, ``(N, O, ...)``.

    Args:
        x: ``(N, I, ...)``, a feature map with copies of its outermost pixels, or a row, a column, a pixel of it.
        weight: ``(I, O, ...)``, or as little of it.
        axes: of ``...``; none, one, or two.
        corrected: how many of them, the first ones.
    """
    if not axes:
        return x @ weight
    convolve = F.conv_transpose1d if len(axes) == 1 else F.conv_transpose2d
    y: torch.Tensor = convolve(x, weight, None, [a.factor for a in axes], [max(0, a.unread) for a in axes])
    for i, axis in enumerate(axes[:corrected]):
        dim, others = 2 + i, axes[:i] + axes[i + 1 :]
        for end, (low, times) in zip((0, -1), axis.corrections, strict=False):
            if not times:
                continue
            line = torch.zeros((), dtype=x.dtype, device=x.device)
            for j, time in enumerate(times, axis.copies[0] + low):
                line = line + x.select(dim, j) * time
            tap = weight.select(dim, 2 + 2 * end)  # flipped, as a transposed convolution has it
            y.select(dim, end).add_(_transposed(line, tap, others, i))
    return y
