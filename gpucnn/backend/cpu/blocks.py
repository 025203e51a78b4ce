"""Convolution on the CPU: im2col by blocks of output pixels whose columns stay in the second-level cache.

All arrays here are (C, H, W, N), the batch last. Images are padded a tile at a time, as large as the workspace's limit
allows. Within a tile, a block is a range of the flattened output pixels (OH, OW, N): whole rows, or a part of one. Its
columns, (C*KH*KW, pixels), are copied from a strided view, multiplied, and discarded. Backward recomputes them, which costs
less than keeping them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.geometry import Block, Shape, Window, elements, steps_inside

BLOCK_BYTES = 1024 * 1024
"""Size of a block's columns, about a second-level cache. A third of it, or four times it, is some 10 % slower."""
PART = 896
"""Pixels that one GEMM of the weight gradient sums over."""


# --- splitting the output ------------------------------------------------------------------------------------------


def blocks(tile: Block, N: int, depth: int, itemsize: int) -> list[Block]:
    """Split a tile into blocks whose columns, ``depth`` rows each, fit the cache."""
    pixels = BLOCK_BYTES // (depth * itemsize * N)
    return tile.cut(pixels // tile.size[1], pixels)


def tiles(shape: Shape, itemsize: int, window: Window, limit: int) -> list[Block]:
    """Split the output for (N, C, H, W) images into tiles whose padded images take at most ``limit`` bytes."""
    N, C, H, W = shape
    OH, OW = window.output_size(H, W)
    (EH, EW), (SH, SW), (PH, PW) = window.extent, window.stride, window.padded_size(H, W)
    pixels = limit // (C * N * itemsize)
    whole = Block(slice(0, OH), slice(0, OW))
    return [whole] if pixels >= PH * PW else whole.cut((pixels // PW - EH) // SH + 1, (pixels // EH - EW) // SW + 1)


# --- images and columns --------------------------------------------------------------------------------------------


def padded(device: CpuDevice, x: Array, window: Window, tile: Block) -> Array:
    """Return the part of the padded images (N, C, H, W) that a tile's windows see, as (C, rows, columns, N).

    It is a view of ``x`` if that is batch-last and the tile sees no padding.
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
    """Return a (C, KH, KW, OH, OW, N) view of (C, rows, columns, N): the pixels that each output pixel sees."""
    sC, sH, sW, sN = image.strides
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    shape = (image.shape[0], KH, KW, *size, image.shape[3])
    return np.lib.stride_tricks.as_strided(image, shape, (sC, sH * DH, sW * DW, sH * SH, sW * SW, sN))


def flat_rows(device: CpuDevice, y: Array, tile: Block) -> Array:
    """Return a tile of (N, F, OH, OW) as (F, pixels), a view if memory is batch-last."""
    part = device.workspace.batch_last(y[:, :, tile.rows, tile.columns])
    return part.reshape(part.shape[0], -1)


def column_blocks(
    device: CpuDevice, x: Array, window: Window, tile: Block, groups: int
) -> Iterator[tuple[int, slice, Array]]:
    """Yield the group, the block's pixels in the tile and their columns, for each block of a tile and each group.

    Columns are (depth + 1, pixels); the last row is ones. The next columns reuse their memory.
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
    """Write y (N, F, OH, OW), batch last. A row of ones in the columns adds the bias within the GEMM."""
    F, CG, KH, KW = w.shape
    FG, depth = F // groups, CG * KH * KW
    filters = np.empty((F, depth + 1), w.dtype)
    filters[:, :depth] = w.reshape(F, depth)
    filters[:, depth] = 0 if b is None else b
    for tile in tiles(x.shape, x.itemsize, window, device.workspace.limit):
        flat = flat_rows(device, y, tile)
        for g, pixels, columns in column_blocks(device, x, window, tile, groups):
            mine = slice(g * FG, (g + 1) * FG)
            np.matmul(filters[mine], columns, out=flat[mine, pixels])


def weight_gradient(device: CpuDevice, window: Window, x: Array, dy: Array, dw: Array, db: Array, groups: int) -> None:
    """Write dL/dw (F, C/groups, KH, KW) and dL/db (F,), which comes from the row of ones."""
    F, CG, KH, KW = dw.shape
    FG, depth = F // groups, CG * KH * KW
    total = np.zeros((groups, depth + 1, FG), x.dtype)
    for tile in tiles(x.shape, x.itemsize, window, device.workspace.limit):
        flat = flat_rows(device, dy, tile)
        for g, pixels, columns in column_blocks(device, x, window, tile, groups):
            add_product(total[g], columns, flat[g * FG : (g + 1) * FG, pixels])
    total = total.transpose(0, 2, 1).reshape(F, depth + 1)
    dw[...] = total[:, :depth].reshape(dw.shape)
    db[...] = total[:, depth]


def add_product(total: Array, columns: Array, gradient: Array) -> None:
    """Add columns @ gradient.T to ``total``, ``PART`` pixels at a time. The BLAS is slow for long sums and few rows.

    24 x 37 sums over 7,168 pixels ran at 57 GFLOP/s in one GEMM and at 80 in parts. The columns are the first factor, which
    the BLAS packs better: 64 x 217 sums ran at 117 GFLOP/s, and at 95 with the factors exchanged.
    """
    pixels = columns.shape[1]
    for first in range(0, pixels, PART):
        part = slice(first, min(first + PART, pixels))
        total += np.matmul(columns[:, part], gradient[:, part].T)


def input_gradient(device: CpuDevice, window: Window, dy: Array, w: Array, dx: Array, groups: int) -> None:
    """Write dL/dx (N, C, H, W): add each block's columns to the pixels they came from, one kernel element at a time."""
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
