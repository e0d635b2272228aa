"""3x3 convolutions by Winograd's F(4x4, 3x3), with a quarter of the products (Lavin and Gray 2016, arXiv 1509.09308).

In the notation of that paper, a tile Y of 4x4 outputs is made of a kernel g, 3x3, and a tile d of 6x6 inputs:

    Y = A^T [sum over input channels of (G g G^T) * (B^T d B)] A

where * is elementwise: 36 products for each pair of channels instead of 144. With a dilation D (not in the paper), a
tile takes every D-th pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from prrmse.engine.onednn import Convolution

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
# A^T u is a tile of ones: products that are larger by u u^T times the bias make outputs that are larger by the bias.
U = torch.linalg.pinv(A_T).sum(1)


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

    def products(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Convolution:
        """What lies between the transforms, as a 1x1 convolution with 36 groups: ``G g G^T``, and the bias.

        Args:
            weight: ``(O, I, 3, 3)``.
            bias: ``(O,)``, or None.
        """
        both = torch.kron(G, G).to(weight)
        kernel = torch.einsum("pk,oik->poi", both, weight.flatten(2)).flatten(0, 1)  # (36 * O, I)
        constant = None if bias is None else torch.outer(torch.kron(U, U).to(bias), bias).flatten()  # (36 * O,)
        return Convolution(kernel[:, :, None, None].contiguous(), constant, groups=ALPHA**2)

    def run(self, x: torch.Tensor, products: Convolution) -> torch.Tensor:
        """``(N, I, H, W)`` to ``(N, O, H', W')``, both channels last."""
        rows, columns = self.rows, self.columns
        n, channels = x.shape[:2]
        tiles = n * self.tiles  # T
        pads = (*columns.pads, *rows.pads)
        x = F.pad(x, pads) if any(pads) else x  # padding by nothing would copy
        x = x.permute(0, 2, 3, 1)  # (N, H, W, I)
        shape, stride = [n], [x.stride(0)]
        for axis, step in ((rows, x.stride(1)), (columns, x.stride(2))):
            shape += [axis.blocks, axis.dilation, len(axis.inputs)]
            stride += [M * axis.dilation * step, step, axis.dilation * step]
        # Bh, Bw: blocks; Dh, Dw: dilation; Ph, Pw: pixels of a tile. Tiles overlap, hence strides.
        d = x.as_strided([*shape, channels], [*stride, x.stride(3)])  # (N, Bh, Dh, Ph, Bw, Dw, Pw, I)
        d = d.permute(0, 1, 2, 4, 5, 3, 6, 7).reshape(tiles, -1, channels)  # (T, P, I)
        v = torch.bmm(self.b_t.expand(tiles, -1, -1), d)  # (T, 36, I): B^T d B
        v = v.view(1, 1, tiles, -1).permute(0, 3, 1, 2)  # (1, 36 * I, 1, T)
        m = products(v).permute(0, 2, 3, 1).reshape(tiles, ALPHA**2, -1)  # (T, 36, O)
        y = torch.bmm(self.a_t.expand(tiles, -1, -1), m)  # (T, 16, O): A^T m A
        y = y.view(*shape[:3], *shape[4:6], M, M, -1)  # (N, Bh, Dh, Bw, Dw, 4, 4, O)
        y = y.permute(0, 1, 5, 2, 3, 6, 4, 7)  # (N, Bh, 4, Dh, Bw, 4, Dw, O)
        y = y.reshape(n, M * rows.blocks * rows.dilation, M * columns.blocks * columns.dilation, -1)
        y = y[:, : rows.out, : columns.out].permute(0, 3, 1, 2)  # (N, O, H', W')
        return y.contiguous(memory_format=torch.channels_last)


def winograd(size: tuple[int, int], padding: tuple[int, ...], dilation: tuple[int, ...]) -> Winograd:
    """For a 3x3 convolution of stride 1 on feature maps of this size (H, W)."""
    rows, columns = (
        Axis(length, length + 2 * pad - (R - 1) * step, pad, step)
        for length, pad, step in zip(size, padding, dilation, strict=True)
    )
    b_t = torch.kron(B_T[:, list(rows.inputs)], B_T[:, list(columns.inputs)])
    return Winograd(rows, columns, b_t.float(), torch.kron(A_T, A_T).float())
