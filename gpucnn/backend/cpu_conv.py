"""Convolution on the CPU: im2col by blocks of output pixels whose columns stay in the second-level cache.

All arrays here are (C, H, W, N), the batch innermost. A block is a range of the flattened output pixels (OH, OW, N):
whole rows, or a part of one. Its columns, (C*KH*KW, pixels), are made in one copy from a strided view, multiplied,
and forgotten; backward makes them again, which costs less than keeping them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cpu import CpuBackend

Array = Any
Shape = tuple[int, int, int, int]

BLOCK_BYTES = 1024 * 1024
"""Size of a block's columns: about a second-level cache. A third of it costs 10 % more, four times it about as much."""


PART = 896
"""Pixels that one product of the weight gradient sums over."""


@dataclass(frozen=True, slots=True)
class Block:
    """Output rows and columns of one block."""

    rows: slice
    columns: slice

    def pixels(self, OW: int, N: int) -> slice:
        """Return the block as a range of flattened (OH, OW, N) pixels; it is whole rows or lies in one row."""
        return slice(
            (self.rows.start * OW + self.columns.start) * N, ((self.rows.stop - 1) * OW + self.columns.stop) * N
        )


def blocks(OH: int, OW: int, N: int, depth: int, itemsize: int) -> list[Block]:
    """Cut OH x OW output pixels into blocks whose ``depth`` columns fit the cache."""
    pixels = max(BLOCK_BYTES // (depth * itemsize * N), 1)
    if pixels < OW:
        return [
            Block(slice(row, row + 1), slice(start, min(start + pixels, OW)))
            for row in range(OH)
            for start in range(0, OW, pixels)
        ]
    height = max(pixels // OW, 1)
    return [Block(slice(row, min(row + height, OH)), slice(0, OW)) for row in range(0, OH, height)]


def padded_innermost(backend: CpuBackend, x: Array, window: Window) -> Array:
    """Return (N, C, H, W) ``x`` as C-ordered (C, PH, PW, N) with the window's zero padding."""
    if not any(window.padding):
        return backend.innermost(x)
    N, C, H, W = x.shape
    top, bottom, left, right = window.padding
    padded = backend.workspace.empty((C, H + top + bottom, W + left + right, N), x.dtype)
    padded[:, :top], padded[:, top + H :] = 0, 0
    padded[:, top : top + H, :left], padded[:, top : top + H, left + W :] = 0, 0
    padded[:, top : top + H, left : left + W] = x.transpose(1, 2, 3, 0)
    return padded


def window_view(padded: Array, window: Window, OH: int, OW: int) -> Array:
    """Return the (C, KH, KW, OH, OW, N) view of what each output pixel sees."""
    sC, sH, sW, sN = padded.strides
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    shape = (padded.shape[0], KH, KW, OH, OW, padded.shape[3])
    return np.ndarray(shape, padded.dtype, padded, 0, (sC, sH * DH, sW * DW, sH * SH, sW * SW, sN))


def forward(backend: CpuBackend, x: Array, w: Array, b: Array | None, window: Window, groups: int) -> Array:
    """Return y (N, F, OH, OW). A row of ones under the columns adds the bias within the product."""
    N, C, H, W = x.shape
    F, CG, KH, KW = w.shape
    OH, OW = window.output_size(H, W)
    depth = CG * KH * KW
    padded = padded_innermost(backend, x, window)
    y = backend.workspace.empty((F, OH, OW, N), x.dtype)
    flat = y.reshape(F, OH * OW * N)
    filters = np.empty((F, depth + 1), w.dtype)
    filters[:, :depth] = w.reshape(F, depth)
    filters[:, depth] = 0 if b is None else b
    views = [window_view(padded[g * CG : (g + 1) * CG], window, OH, OW) for g in range(groups)]
    FG = F // groups
    plan = blocks(OH, OW, N, depth + 1, x.itemsize)

    columns = Columns(backend, plan, (CG, KH, KW), N, x.dtype)
    for block in plan:
        pixels = block.pixels(OW, N)
        for g in range(groups):
            mine = slice(g * FG, (g + 1) * FG)
            np.matmul(filters[mine], columns.fill(views[g], block), out=flat[mine, pixels])
    return y.transpose(3, 0, 1, 2)


class Columns:
    """A buffer for the columns of a block, with a row of ones below them."""

    def __init__(
        self, backend: CpuBackend, plan: list[Block], kernel: tuple[int, int, int], N: int, dtype: Any
    ) -> None:
        self.kernel, self.N = kernel, N
        self.depth = kernel[0] * kernel[1] * kernel[2]
        largest = max((p.rows.stop - p.rows.start) * (p.columns.stop - p.columns.start) for p in plan) * N
        self._buffer = backend.workspace.empty(((self.depth + 1) * largest,), dtype)

    def fill(self, view: Array, block: Block) -> Array:
        """Return (depth + 1, pixels) columns of the block."""
        rows, width = block.rows.stop - block.rows.start, block.columns.stop - block.columns.start
        pixels = rows * width * self.N
        columns = self._buffer[: (self.depth + 1) * pixels].reshape(self.depth + 1, pixels)
        np.copyto(
            columns[: self.depth].reshape(*self.kernel, rows, width, self.N), view[:, :, :, block.rows, block.columns]
        )
        columns[self.depth] = 1
        return columns


def weight_gradient(
    backend: CpuBackend, x: Array, dy: Array, shape: Shape, window: Window, groups: int
) -> tuple[Array, Array]:
    """Return dL/dw of ``shape`` and dL/db (F,), which the row of ones gives."""
    N, C, H, W = x.shape
    F, CG, KH, KW = shape
    OH, OW = window.output_size(H, W)
    depth, FG = CG * KH * KW, F // groups
    padded = padded_innermost(backend, x, window)
    flat = backend.innermost(dy).reshape(F, OH * OW * N)
    views = [window_view(padded[g * CG : (g + 1) * CG], window, OH, OW) for g in range(groups)]
    plan = blocks(OH, OW, N, depth + 1, x.itemsize)
    total = np.zeros((groups, depth + 1, FG), x.dtype)
    columns = Columns(backend, plan, (CG, KH, KW), N, x.dtype)
    for block in plan:
        pixels = block.pixels(OW, N)
        for g in range(groups):
            mine = slice(g * FG, (g + 1) * FG)
            add_product(total[g], columns.fill(views[g], block), flat[mine, pixels])
    total = total.transpose(0, 2, 1).reshape(F, depth + 1)
    return total[:, :depth].reshape(shape), total[:, depth].copy()


def add_product(total: Array, columns: Array, gradient: Array) -> None:
    """Add columns @ gradient.T to ``total``, some pixels at a time: the BLAS is slow at long sums of short rows.

    24 x 37 sums over 7,168 pixels ran at 57 GFLOP/s whole and at 80 in parts; columns first, since it packs that side
    better: 64 x 217 sums at 117 GFLOP/s, at 95 the other way round.
    """
    pixels = columns.shape[1]
    for first in range(0, pixels, PART):
        part = slice(first, min(first + PART, pixels))
        total += np.matmul(columns[:, part], gradient[:, part].T)


def input_gradient(backend: CpuBackend, dy: Array, w: Array, shape: Shape, window: Window, groups: int) -> Array:
    """Return dL/dx of ``shape``: each block's columns, added to the pixels they came from, one kernel element at a time."""
    N, C, H, W = shape
    F, CG, KH, KW = w.shape
    OH, OW = window.output_size(H, W)
    FG, top, left = F // groups, window.padding[0], window.padding[2]
    flat = backend.innermost(dy).reshape(F, OH * OW * N)
    padded = backend.workspace.empty((C, *window.padded_size(H, W), N), dy.dtype)
    padded.fill(0)
    for g in range(groups):
        filters = w[g * FG : (g + 1) * FG].reshape(FG, CG * KH * KW).T
        target = window_view(padded[g * CG : (g + 1) * CG], window, OH, OW)
        for block in blocks(OH, OW, N, CG * KH * KW, dy.itemsize):
            columns = np.matmul(filters, flat[g * FG : (g + 1) * FG, block.pixels(OW, N)])
            source = columns.reshape(CG, KH, KW, -1, block.columns.stop - block.columns.start, N)
            for kh in range(KH):
                for kw in range(KW):
                    seen = target[:, kh, kw, block.rows, block.columns]
                    np.add(seen, source[:, kh, kw], out=seen)
    return padded[:, top : top + H, left : left + W].transpose(3, 0, 1, 2)
