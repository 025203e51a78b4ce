"""Convolution on the CPU: im2col by blocks of output pixels whose columns stay in the second-level cache.

All arrays here are (C, H, W, N), the batch innermost. Images are padded a tile at a time, as large as the workspace's limit
allows. Within a tile, a block is a range of the flattened output pixels (OH, OW, N): whole rows, or a part of one. Its
columns, (C*KH*KW, pixels), are made in one copy from a strided view, multiplied, and forgotten; backward makes them again,
which costs less than keeping them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cpu import CpuBackend

Array = Any
Shape = tuple[int, int, int, int]
Cut = tuple[slice, slice]

BLOCK_BYTES = 1024 * 1024
"""Size of a block's columns: about a second-level cache. A third of it costs 10 % more, four times it about as much."""
PART = 896
"""Pixels that one product of the weight gradient sums over."""


# --- output pixels, cut --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A range of output rows and columns."""

    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def moved_to_origin(self) -> Block:
        height, width = self.size
        return Block(slice(0, height), slice(0, width))

    def pixels(self, OW: int, N: int) -> slice:
        """Return the block as a range of flattened (OH, OW, N) pixels; it is whole rows or lies in one row."""
        return slice(
            (self.rows.start * OW + self.columns.start) * N, ((self.rows.stop - 1) * OW + self.columns.stop) * N
        )

    def cut(self, height: int, width: int) -> list[Block]:
        """Return blocks of ``height`` rows or, where that is 0, of ``width`` pixels of one row."""
        rows, columns = self.rows, self.columns
        if height > 0:
            return [Block(slice(i, min(i + height, rows.stop)), columns) for i in range(rows.start, rows.stop, height)]
        width = max(width, 1)
        return [
            Block(slice(i, i + 1), slice(j, min(j + width, columns.stop)))
            for i in range(rows.start, rows.stop)
            for j in range(columns.start, columns.stop, width)
        ]

    def seen(self, window: Window) -> tuple[slice, slice]:
        """Return the rows and columns of the padded image that its windows see."""
        (SH, SW), (EH, EW) = window.stride, window.extent
        return (
            slice(self.rows.start * SH, (self.rows.stop - 1) * SH + EH),
            slice(self.columns.start * SW, (self.columns.stop - 1) * SW + EW),
        )


def blocks(tile: Block, N: int, depth: int, itemsize: int) -> list[Block]:
    """Cut a tile into blocks whose ``depth`` columns fit the cache."""
    pixels = BLOCK_BYTES // (depth * itemsize * N)
    return tile.cut(pixels // tile.size[1], pixels)


def tiles(shape: Shape, itemsize: int, window: Window, limit: int) -> list[Block]:
    """Cut the output for (N, C, H, W) images into tiles whose padded images take ``limit`` bytes at most."""
    N, C, H, W = shape
    OH, OW = window.output_size(H, W)
    (EH, EW), (SH, SW), (PH, PW) = window.extent, window.stride, window.padded_size(H, W)
    pixels = limit // (C * N * itemsize)
    whole = Block(slice(0, OH), slice(0, OW))
    return [whole] if pixels >= PH * PW else whole.cut((pixels // PW - EH) // SH + 1, (pixels // EH - EW) // SW + 1)


# --- images and columns --------------------------------------------------------------------------------------------


def padded(backend: CpuBackend, x: Array, window: Window, tile: Block) -> Array:
    """Return what a tile's windows see of the padded images (N, C, H, W), as (C, rows, columns, N).

    A view of ``x`` where it is batch-innermost there and no padding is seen.
    """
    N, C, H, W = x.shape
    rows, columns = tile.seen(window)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    inside_rows, in_rows = steps_inside(rows.start - window.padding[0], 1, height, H)
    inside_columns, in_columns = steps_inside(columns.start - window.padding[2], 1, width, W)
    inner = x.transpose(1, 2, 3, 0)[:, in_rows, in_columns]
    if inner.shape[1:3] == (height, width) and inner[0, 0].flags.c_contiguous:
        return inner
    memory = backend.workspace.empty((C, height, width, N), x.dtype)
    memory[:, : inside_rows.start], memory[:, inside_rows.stop :] = 0, 0
    middle = memory[:, inside_rows]
    middle[:, :, : inside_columns.start], middle[:, :, inside_columns.stop :] = 0, 0
    np.copyto(middle[:, :, inside_columns], inner)
    return memory


def window_view(image: Array, window: Window, size: tuple[int, int]) -> Array:
    """Return the (C, KH, KW, OH, OW, N) view of what each of (OH, OW) output pixels sees of (C, rows, columns, N)."""
    sC, sH, sW, sN = image.strides
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    shape = (image.shape[0], KH, KW, *size, image.shape[3])
    return np.lib.stride_tricks.as_strided(image, shape, (sC, sH * DH, sW * DW, sH * SH, sW * SW, sN))


def flat_rows(backend: CpuBackend, y: Array, tile: Block) -> Array:
    """Return a tile of (N, F, OH, OW) as (F, pixels), a view where the batch is innermost."""
    part = backend.innermost(y[:, :, tile.rows, tile.columns])
    return part.reshape(part.shape[0], -1)


def column_blocks(
    backend: CpuBackend, x: Array, window: Window, tile: Block, groups: int
) -> Iterator[tuple[int, slice, Array]]:
    """Yield for each block of a tile and each group the group, the block's pixels in the tile, and their columns.

    Columns are (depth + 1, pixels), the last row ones; their memory is used again for the next ones.
    """
    N, CG, (KH, KW), inside = x.shape[0], x.shape[1] // groups, window.kernel, tile.moved_to_origin()
    depth = CG * KH * KW
    image = padded(backend, x, window, tile)
    views = [window_view(image[g * CG : (g + 1) * CG], window, tile.size) for g in range(groups)]
    plan = blocks(inside, N, depth + 1, x.itemsize)
    memory = backend.workspace.empty(((depth + 1) * N * max(math.prod(block.size) for block in plan),), x.dtype)
    for block in plan:
        pixels = N * math.prod(block.size)
        columns = memory[: (depth + 1) * pixels].reshape(depth + 1, pixels)
        for g, view in enumerate(views):
            np.copyto(columns[:depth].reshape(CG, KH, KW, *block.size, N), view[:, :, :, block.rows, block.columns])
            columns[depth] = 1
            yield g, block.pixels(tile.size[1], N), columns


# --- the convolution and its gradients -----------------------------------------------------------------------------


def forward(backend: CpuBackend, window: Window, x: Array, w: Array, b: Array | None, y: Array, groups: int) -> None:
    """Write y (N, F, OH, OW), batch innermost. A row of ones under the columns adds the bias within the product."""
    F, CG, KH, KW = w.shape
    FG, depth = F // groups, CG * KH * KW
    filters = np.empty((F, depth + 1), w.dtype)
    filters[:, :depth] = w.reshape(F, depth)
    filters[:, depth] = 0 if b is None else b
    for tile in tiles(x.shape, x.itemsize, window, backend.limit_of_a_thread):
        flat = flat_rows(backend, y, tile)
        for g, pixels, columns in column_blocks(backend, x, window, tile, groups):
            mine = slice(g * FG, (g + 1) * FG)
            np.matmul(filters[mine], columns, out=flat[mine, pixels])


def weight_gradient(
    backend: CpuBackend, window: Window, x: Array, dy: Array, dw: Array, db: Array, groups: int
) -> None:
    """Write dL/dw (F, C/groups, KH, KW) and dL/db (F,), which the row of ones gives."""
    F, CG, KH, KW = dw.shape
    FG, depth = F // groups, CG * KH * KW
    total = np.zeros((groups, depth + 1, FG), x.dtype)
    for tile in tiles(x.shape, x.itemsize, window, backend.limit_of_a_thread):
        flat = flat_rows(backend, dy, tile)
        for g, pixels, columns in column_blocks(backend, x, window, tile, groups):
            add_product(total[g], columns, flat[g * FG : (g + 1) * FG, pixels])
    total = total.transpose(0, 2, 1).reshape(F, depth + 1)
    dw[...] = total[:, :depth].reshape(dw.shape)
    db[...] = total[:, depth]


def add_product(total: Array, columns: Array, gradient: Array) -> None:
    """Add columns @ gradient.T to ``total``, some pixels at a time: the BLAS is slow at long sums of short rows.

    24 x 37 sums over 7,168 pixels ran at 57 GFLOP/s whole and at 80 in parts; columns first, since it packs that side
    better: 64 x 217 sums at 117 GFLOP/s, at 95 the other way round.
    """
    pixels = columns.shape[1]
    for first in range(0, pixels, PART):
        part = slice(first, min(first + PART, pixels))
        total += np.matmul(columns[:, part], gradient[:, part].T)


def input_gradient(backend: CpuBackend, window: Window, dy: Array, w: Array, dx: Array, groups: int) -> None:
    """Write dL/dx (N, C, H, W): each block's columns, added to the pixels they came from, one kernel element at a time."""
    N, _, H, W = dx.shape
    F, CG, KH, KW = w.shape
    FG, depth = F // groups, CG * KH * KW
    OH, OW = window.output_size(H, W)
    inner = dx.transpose(1, 2, 3, 0)
    inner.fill(0)
    filters = [np.ascontiguousarray(w[g * FG : (g + 1) * FG].reshape(FG, depth).T) for g in range(groups)]
    for block in blocks(Block(slice(0, OH), slice(0, OW)), N, depth, dy.itemsize):
        height, width = block.size
        flat = flat_rows(backend, dy, block)
        columns = backend.workspace.empty((depth, height * width * N), dy.dtype)
        source = columns.reshape(CG, KH, KW, height, width, N)
        places = list(elements(window, block, H, W))
        for g in range(groups):
            np.matmul(filters[g], flat[g * FG : (g + 1) * FG], out=columns)
            target = inner[g * CG : (g + 1) * CG]
            for kh, kw, out, seen in places:
                pixels = target[:, *seen]
                np.add(pixels, source[:, kh, kw, *out], out=pixels)


def elements(window: Window, block: Block, H: int, W: int) -> Iterator[tuple[int, int, Cut, Cut]]:
    """Yield for each kernel element its row and column, the pixels of the block for which it meets the image, and those."""
    (KH, KW), (DH, DW) = window.kernel, window.dilation
    (SH, SW), (top, _, left, _) = window.stride, window.padding
    first_row, first_column = block.rows.start * SH - top, block.columns.start * SW - left
    rows = [steps_inside(kh * DH + first_row, SH, block.size[0], H) for kh in range(KH)]
    columns = [steps_inside(kw * DW + first_column, SW, block.size[1], W) for kw in range(KW)]
    for kh, (out_rows, in_rows) in enumerate(rows):
        for kw, (out_columns, in_columns) in enumerate(columns):
            yield kh, kw, (out_rows, out_columns), (in_rows, in_columns)


def steps_inside(offset: int, stride: int, out: int, length: int) -> tuple[slice, slice]:
    """Return the outputs i of one axis with 0 <= offset + i stride < length, and the inputs they see."""
    first = max(-(offset // stride), 0)
    last = min((length - 1 - offset) // stride, out - 1)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(offset + first * stride, offset + last * stride + 1, stride)
