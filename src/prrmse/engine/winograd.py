"""A quarter of the products of a 3x3 convolution: Winograd's F(4x4, 3x3) (Lavin and Gray 2016, arXiv 1509.09308).

A tile of 4x4 outputs needs 36 products for each pair of channels instead of 144. A map is cut into tiles, one matrix
takes the pixels of a tile to 36 points, the kernel is a matrix of channels at each point, and another matrix takes the
points back to pixels. With a dilation d, a tile takes every d-th pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from prrmse.engine.onednn import Convolution

TILE, TAPS, POINTS = 4, 3, 6
# And infinity. With pairs of reciprocals the rounding errors are half of those of the usual 0, 1, -1, 2, -2.
FINITE = np.array([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2])


def _transformations() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """By Toom and Cook, of one axis: pixels to points ``[6, 6]``, taps to points ``[6, 3]``, and back ``[4, 6]``."""
    others = [np.delete(FINITE, i) for i in range(len(FINITE))]
    data = np.array([*([*np.poly(roots)[::-1], 0] for roots in others), np.poly(FINITE)[::-1]])
    powers = np.vander(FINITE, TILE, increasing=True)
    kernel = powers[:, :TAPS] / np.array([np.prod(a - roots) for a, roots in zip(FINITE, others, strict=True)])[:, None]
    infinity = np.eye(TILE)[-1]
    kernel, output = np.vstack([kernel, infinity[-TAPS:]]), np.vstack([powers, infinity]).T
    return torch.from_numpy(data), torch.from_numpy(kernel), torch.from_numpy(output)


DATA, KERNEL, OUTPUT = _transformations()
# What the points of a constant are, for each axis.
ONES = torch.linalg.pinv(OUTPUT).sum(1)


@dataclass(frozen=True)
class Axis:
    """How one axis is cut: ``blocks * dilation`` tiles, of pixels that lie ``dilation`` apart.

    Args:
        length, out: pixels before and after the convolution.
        padding, dilation: of the convolution.
    """

    length: int
    out: int
    padding: int
    dilation: int

    @property
    def blocks(self) -> int:
        return -(-self.out // (TILE * self.dilation))

    @property
    def taken(self) -> range:
        """Of the 6 pixels that a tile reads, those that are not padding in every tile."""
        if self.blocks > 1:
            return range(POINTS)
        last = self.length + self.padding - 1
        return range(self.padding // self.dilation, min(POINTS, last // self.dilation + 1))

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros to put before and after the pixels, so that every tile finds what it takes."""
        before = self.padding - self.taken.start * self.dilation
        needed = ((self.blocks - 1) * TILE + len(self.taken)) * self.dilation
        return before, max(0, needed - before - self.length)


@dataclass(frozen=True)
class Winograd:
    """The transformations of maps of one size.

    Args:
        rows, columns: how the map is cut.
        into: ``[36, pixels that a tile takes]``.
        back: ``[16, 36]``.
    """

    rows: Axis
    columns: Axis
    into: torch.Tensor
    back: torch.Tensor

    @property
    def tiles(self) -> int:
        """In one map."""
        rows, columns = self.rows, self.columns
        return rows.blocks * rows.dilation * columns.blocks * columns.dilation

    def convolution(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Convolution:
        """What lies between the transformations: a product of channels at each point."""
        both = torch.kron(KERNEL, KERNEL).to(weight)
        kernel = torch.einsum("pt,oit->poi", both, weight.flatten(2)).flatten(0, 1)
        constant = None if bias is None else torch.outer(torch.kron(ONES, ONES).to(bias), bias).flatten()
        return Convolution(kernel[:, :, None, None].contiguous(), constant, groups=POINTS**2)

    def run(self, x: torch.Tensor, between: Convolution) -> torch.Tensor:
        """``[N, I, H, W]`` to ``[N, O, H', W']``, both channels last."""
        n, inside, _, _ = x.shape
        pads = (*self.columns.pads, *self.rows.pads)
        x = (F.pad(x, pads) if any(pads) else x).permute(0, 2, 3, 1)  # padding by nothing would copy
        shape, stride = [n], [x.stride(0)]
        for axis, step in ((self.rows, x.stride(1)), (self.columns, x.stride(2))):
            shape += [axis.blocks, axis.dilation, len(axis.taken)]
            stride += [TILE * axis.dilation * step, step, axis.dilation * step]
        # Of each axis block, remainder by the dilation, place in the tile; the places of both are brought together.
        x = x.as_strided([*shape, inside], [*stride, x.stride(3)]).permute(0, 1, 2, 4, 5, 3, 6, 7)
        tiles = n * self.tiles
        x = torch.bmm(self.into.expand(tiles, -1, -1), x.reshape(tiles, -1, inside))
        x = between(x.view(1, 1, tiles, -1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = torch.bmm(self.back.expand(tiles, -1, -1), x.reshape(tiles, POINTS**2, -1))
        x = x.view(*shape[:3], *shape[4:6], TILE, TILE, -1).permute(0, 1, 5, 2, 3, 6, 4, 7)
        x = x.reshape(n, TILE * shape[1] * shape[2], TILE * shape[4] * shape[5], -1)
        x = x[:, : self.rows.out, : self.columns.out].permute(0, 3, 1, 2)
        return x.contiguous(memory_format=torch.channels_last)


def winograd(size: tuple[int, int], padding: tuple[int, ...], dilation: tuple[int, ...]) -> Winograd:
    """For a 3x3 convolution of stride 1 on maps of this size."""
    rows, columns = (
        Axis(length, length + 2 * pad - (TAPS - 1) * step, pad, step)
        for length, pad, step in zip(size, padding, dilation, strict=True)
    )
    into = torch.kron(DATA[:, list(rows.taken)], DATA[:, list(columns.taken)])
    return Winograd(rows, columns, into.float(), torch.kron(OUTPUT, OUTPUT).float())
