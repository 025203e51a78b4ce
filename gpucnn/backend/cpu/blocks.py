"""Convolution on the CPU: im2col by blocks of output pixels whose columns stay in the second-level cache.

All arrays here are (C, H, W, N), the batch last. Images are padded a tile at a time, as large as the workspace's limit
allows. Within a tile, a block is a range of the flattened output pixels (OH, OW, N): whole rows, or a part of one. Its
columns, (C*KH*KW, pixels), are made in one copy from a strided view, multiplied, and forgotten; backward makes them again,
which costs less than keeping them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.geometry import Block, Shape, Window, elements, steps_inside

BLOCK_BYTES = 1024 * 1024
"""Size of a block's columns: about a second-level cache. A third of it costs 10 % more, four times it about as much."""
PART = 896
"""Pixels that one product of the weight gradient sums over."""


# --- output pixels, cut --------------------------------------------------------------------------------------------


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


def padded(device: CpuDevice, x: Array, window: Window, tile: Block) -> Array:
    """Return what a tile's windows see of the padded images (N, C, H, W), as (C, rows, columns, N).

    A view of ``x`` where it is batch-last there and no padding is seen.
    """
    N, C, H, W = x.shape
    rows, columns = tile.seen(window)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    inside_rows, in_rows = steps_inside(rows.start - window.padding[0], 1, height, H)
    inside_columns, in_columns = steps_inside(columns.start - window.padding[2], 1, width, W)
    inner = x.transpose(1, 2, 3, 0)[:, in_rows, in_columns]
    if inner.shape[1:3] == (height, width) and inner[0, 0].flags.c_contiguous:
        return inner
    memory = device.workspace.empty((C, height, width, N), x.dtype)
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


def flat_rows(device: CpuDevice, y: Array, tile: Block) -> Array:
    """Return a tile of (N, F, OH, OW) as (F, pixels), a view where the batch is last."""
    part = device.workspace.batch_last(y[:, :, tile.rows, tile.columns])
    return part.reshape(part.shape[0], -1)


def column_blocks(
    device: CpuDevice, x: Array, window: Window, tile: Block, groups: int
) -> Iterator[tuple[int, slice, Array]]:
    """Yield for each block of a tile and each group the group, the block's pixels in the tile, and their columns.

    Columns are (depth + 1, pixels), the last row ones; their memory is used again for the next ones.
    """
    N, CG, (KH, KW), inside = x.shape[0], x.shape[1] // groups, window.kernel, tile.moved_to_origin()
    depth = CG * KH * KW
    image = padded(device, x, window, tile)
    views = [window_view(image[g * CG : (g + 1) * CG], window, tile.size) for g in range(groups)]
    plan = blocks(inside, N, depth + 1, x.itemsize)
    memory = device.workspace.empty(((depth + 1) * N * max(math.prod(block.size) for block in plan),), x.dtype)
    for block in plan:
        pixels = N * math.prod(block.size)
        columns = memory[: (depth + 1) * pixels].reshape(depth + 1, pixels)
        for g, view in enumerate(views):
            np.copyto(columns[:depth].reshape(CG, KH, KW, *block.size, N), view[:, :, :, block.rows, block.columns])
            columns[depth] = 1
            yield g, block.pixels(tile.size[1], N), columns


# --- the convolution and its gradients -----------------------------------------------------------------------------


def forward(device: CpuDevice, window: Window, x: Array, w: Array, b: Array | None, y: Array, groups: int) -> None:
    """Write y (N, F, OH, OW), batch last. A row of ones under the columns adds the bias within the product."""
    F, CG, KH, KW = w.shape
    FG, depth = F // groups, CG * KH * KW
    filters = np.empty((F, depth + 1), w.dtype)
    filters[:, :depth] = w.reshape(F, depth)
    filters[:, depth] = 0 if b is None else b
    for tile in tiles(x.shape, x.itemsize, window, device.workspace.limit_of_each):
        flat = flat_rows(device, y, tile)
        for g, pixels, columns in column_blocks(device, x, window, tile, groups):
            mine = slice(g * FG, (g + 1) * FG)
            np.matmul(filters[mine], columns, out=flat[mine, pixels])


def weight_gradient(device: CpuDevice, window: Window, x: Array, dy: Array, dw: Array, db: Array, groups: int) -> None:
    """Write dL/dw (F, C/groups, KH, KW) and dL/db (F,), which the row of ones gives."""
    F, CG, KH, KW = dw.shape
    FG, depth = F // groups, CG * KH * KW
    total = np.zeros((groups, depth + 1, FG), x.dtype)
    for tile in tiles(x.shape, x.itemsize, window, device.workspace.limit_of_each):
        flat = flat_rows(device, dy, tile)
        for g, pixels, columns in column_blocks(device, x, window, tile, groups):
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


def input_gradient(device: CpuDevice, window: Window, dy: Array, w: Array, dx: Array, groups: int) -> None:
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
        flat = flat_rows(device, dy, block)
        columns = device.workspace.empty((depth, height * width * N), dy.dtype)
        source = columns.reshape(CG, KH, KW, height, width, N)
        met = list(elements(window, block, H, W))
        for g in range(groups):
            np.matmul(filters[g], flat[g * FG : (g + 1) * FG], out=columns)
            target = inner[g * CG : (g + 1) * CG]
            for kh, kw, out, seen in met:
                pixels = target[:, *seen]
                np.add(pixels, source[:, kh, kw, *out], out=pixels)
