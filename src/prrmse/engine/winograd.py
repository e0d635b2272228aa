"""3x3 convolutions by Winograd's F(4x4, 3x3), with a quarter of the products (Lavin and Gray 2016, arXiv 1509.09308).

In the notation of that paper, a tile Y of 4x4 outputs is made of a kernel g, 3x3, and a tile d of 6x6 inputs:

    Y = A^T [sum over input channels of (G g G^T) * (B^T d B)] A

where * is elementwise: 36 products for each pair of channels instead of 144. With a dilation D (not in the paper), a
tile takes every D-th pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

# Outputs, kernel and inputs of a tile, along one axis.
M, R = 4, 3
ALPHA = M + R - 1
# Where polynomials are evaluated; and at infinity. With pairs of reciprocals the rounding errors are half of those of
# the paper's 0, 1, -1, 2, -2.
POINTS = np.array([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2])


def _toom_cook() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """B^T ``(6, 6)``, G ``(6, 3)`` and A^T ``(4, 6)`` in float64 (Lavin and Gray, section 5.1: Cook-Toom)."""
    others = [np.delete(POINTS, i) for i in range(len(POINTS))]
    b_t = np.array([*([*np.poly(roots)[::-1], 0] for roots in others), np.poly(POINTS)[::-1]])
    powers = np.vander(POINTS, M, increasing=True)
    g = powers[:, :R] / np.array([np.prod(a - roots) for a, roots in zip(POINTS, others, strict=True)])[:, None]
    infinity = np.eye(M)[-1]
    g, a_t = np.vstack([g, infinity[-R:]]), np.vstack([powers, infinity]).T
    return torch.from_numpy(b_t), torch.from_numpy(g), torch.from_numpy(a_t)


B_T, G, A_T = _toom_cook()
# Of transformed tiles, multiplied at once; or a quarter of the kernel, which is read each time (`make bench`).
PART_BYTES = 8 * 2**20


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
        """Groups of ``dilation`` interleaved tiles."""
        return -(-self.out // (M * self.dilation))

    @property
    def inputs(self) -> range:
        """Of the 6 pixels of an input tile, those that are not padding in every tile."""
        if self.blocks > 1:
            return range(ALPHA)
        last = self.length + self.padding - 1
        return range(self.padding // self.dilation, min(ALPHA, last // self.dilation + 1))

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros to put before and after the pixels, so that every tile finds its ``inputs``."""
        before = self.padding - self.inputs.start * self.dilation
        needed = ((self.blocks - 1) * M + len(self.inputs)) * self.dilation
        return before, max(0, needed - before - self.length)


@dataclass(frozen=True)
class Winograd:
    """The transforms for feature maps of one size, of both axes at once (Kronecker products, tiles flattened).

    Args:
        rows, columns: how a feature map is cut.
        b_t: ``B^T (x) B^T``, ``(36, P)``: of the P pixels that are not padding in every tile.
        a_t: ``A^T (x) A^T``, ``(16, 36)``.
    """

    rows: Axis
    columns: Axis
    b_t: torch.Tensor
    a_t: torch.Tensor

    @property
    def tiles(self) -> int:
        """In one feature map."""
        rows, columns = self.rows, self.columns
        return rows.blocks * rows.dilation * columns.blocks * columns.dilation

    def run(
        self,
        x: torch.Tensor,
        kernel: torch.Tensor,
        bias: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``(N, I, H, W)`` to ``(N, O, H', W')``, channels last.

        Args:
            x: in any memory format; channels last is fastest.
            kernel: transformed (`transformed`), ``(36, I, O)``.
            bias: ``(O,)``, or None.
            scale: ``(O,)``, by which the outputs are multiplied before the bias is added, or None.
        """
        rows, columns = self.rows, self.columns
        channels, outputs = kernel.shape[1:]
        tiles = self._tiles_of(x)
        made, into = self._tiles_to(len(x), outputs, x)
        shift, factor = x.new_zeros(1) if bias is None else bias, x.new_ones(1) if scale is None else scale
        for images, blocks in self._parts(len(x), kernel):
            d = tiles[:, :, images, blocks]  # (Ph, Pw, n, bh, Dh, Bw, Dw, I)
            v = torch.mm(self.b_t, d.reshape(self.b_t.shape[1], -1)).view(ALPHA**2, -1, channels)  # (36, T, I)
            m = torch.bmm(v, kernel)  # (36, T, O)
            y = into[:, :, images, blocks]  # (4, 4, n, bh, Dh, Bw, Dw, O)
            found = torch.mm(self.a_t, m.view(ALPHA**2, -1)).view(y.shape)
            torch.addcmul(shift, found, factor, out=y)
        y = made[:, : rows.out, : columns.out].permute(0, 3, 1, 2)
        return y.contiguous(memory_format=torch.channels_last)

    def _tiles_of(self, x: torch.Tensor) -> torch.Tensor:
        """A view of the padded input: ``(Ph, Pw, N, Bh, Dh, Bw, Dw, I)``.

        Of B blocks and D dilations along each axis; the P pixels of neighbouring tiles overlap, hence strides.
        """
        rows, columns = self.rows, self.columns
        pads = (*columns.pads, *rows.pads)
        x = F.pad(x, pads) if any(pads) else x  # padding by nothing would copy
        image, channel, row, column = x.stride()
        shape, stride = [len(x)], [image]
        for axis, step in ((rows, row), (columns, column)):
            shape += [axis.blocks, axis.dilation]
            stride += [M * axis.dilation * step, step]
        pixels = [rows.dilation * row, columns.dilation * column]
        return x.as_strided([len(rows.inputs), len(columns.inputs), *shape, x.shape[1]], [*pixels, *stride, channel])

    def _tiles_to(self, images: int, outputs: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Room for the output in whole tiles, ``(N, H'', W'', O)``; a view of it, ``(4, 4, N, Bh, Dh, Bw, Dw, O)``."""
        rows, columns = self.rows, self.columns
        shape = [images, rows.blocks, M, rows.dilation, columns.blocks, M, columns.dilation, outputs]
        made = like.new_empty(shape)
        return made.flatten(4, 6).flatten(1, 3), made.permute(2, 5, 0, 1, 3, 4, 6, 7)

    def _parts(self, images: int, kernel: torch.Tensor) -> Iterator[tuple[slice, slice]]:
        """Images, and blocks of rows, that are transformed at once: so many that caches hold what is made of them."""
        _, channels, outputs = kernel.shape
        of_a_block = ALPHA**2 * max(channels, outputs) * kernel.element_size() * self.tiles // self.rows.blocks
        most = max(1, max(PART_BYTES, kernel.nbytes // 4) // of_a_block)
        at_once, blocks = max(1, most // self.rows.blocks), min(most, self.rows.blocks)
        for i in range(0, images, at_once):
            for block in range(0, self.rows.blocks, blocks):
                yield slice(i, i + at_once), slice(block, block + blocks)


def transformed(weight: torch.Tensor) -> torch.Tensor:
    """``G g G^T`` of a weight ``(O, I, 3, 3)``: ``(36, I, O)``."""
    return torch.einsum("pk,oik->pio", torch.kron(G, G).to(weight), weight.flatten(2)).contiguous()


def winograd(size: tuple[int, int], padding: tuple[int, ...], dilation: tuple[int, ...]) -> Winograd:
    """For a 3x3 convolution of stride 1 on feature maps of this size (H, W)."""
    rows, columns = (
        Axis(length, length + 2 * pad - (R - 1) * step, pad, step)
        for length, pad, step in zip(size, padding, dilation, strict=True)
    )
    b_t = torch.kron(B_T[:, list(rows.inputs)], B_T[:, list(columns.inputs)])
    return Winograd(rows, columns, b_t.float(), torch.kron(A_T, A_T).float())
