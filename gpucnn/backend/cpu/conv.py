"""Convolution on the CPU without the full im2col matrix: each row of output pixels is one GEMM on the image rows.

``blocks`` handles what does not suit this (1x1 and dilated kernels, short rows), with im2col by blocks that fit the cache.

Image rows are stored as (rows, KW, C, OW, N), batch-last: each padded row once for each column of the kernel, shifted. In
this layout the KH*KW*C values for a row of output pixels have a constant stride. KH consecutive image rows are the KH*KW*C
rows of a matrix, and the next output row's matrix starts SH rows further on. So im2col's KH*KW copies become KW, and the
kernel's height costs nothing. Source: the idea of Anderson et al. 2017, "Low-memory GEMM-based convolution algorithms for
deep neural networks", in a batch-last layout.

Compared with ``blocks`` (one core, AVX-512, 3x3, 64 to 64 channels, 32x32 pixels, batch 32), forward took 27 ms instead of
41, and each gradient 26 ms instead of 50. It was 1.1 to 3 times faster for all shapes tried except 1x1 and very short rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu import blocks
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Block, Shape, Window, steps_inside

BAND_BYTES = 16 << 20
"""Bytes of the image rows stored at one time."""
TOGETHER = 7
"""The least number of output rows in a band after the first, if the output has that many."""
GAP = 16
"""Unused elements after each row, because rows at power-of-two distances map to the same cache set."""
LONG = 64
"""The least length (output pixels of a row, times images) for which a GEMM per row is faster."""
LONG_SUM = 256
"""The same for the weight gradient, whose GEMM result has the size of the filters even for short rows."""


# --- implementations ---------------------------------------------------------------------------------------------------


def _forward_serves(device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> bool:
    return bool(x.size > 0)


@implements(ops.conv2d, on="cpu", when=_forward_serves)
def conv2d(device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    N, _, H, W = x.shape
    kernel = forward if _takes_rows(device, x.shape, w.shape, window, LONG, x.itemsize) else blocks.forward
    y = device.workspace.empty_batch_last((N, w.shape[0], *window.output_size(H, W)), x.dtype)
    kernel(device, window, x, w, b, y, groups)
    return y


def _input_gradient_serves(
    device: CpuDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return bool(dy.size > 0)


@implements(ops.conv2d_input_gradient, on="cpu", when=_input_gradient_serves)
def conv2d_input_gradient(
    device: CpuDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> Array:
    """At stride 1 it is a convolution of dL/dy with the flipped filters."""
    flipped = window.flipped()
    if window.stride == (1, 1) and min(flipped.padding) >= 0:
        return conv2d(device, dy, flipped_filters(w, groups), None, flipped, groups)
    dx = device.workspace.empty_batch_last(shape, dy.dtype)
    blocks.input_gradient(device, window, dy, w, dx, groups)
    return dx


def _weight_gradient_serves(
    device: CpuDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return bool(dy.size > 0)


@implements(ops.conv2d_weight_gradient, on="cpu", when=_weight_gradient_serves)
def conv2d_weight_gradient(
    device: CpuDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    by_rows = _takes_rows(device, x.shape, shape, window, LONG_SUM, x.itemsize)
    kernel = weight_gradient if by_rows else blocks.weight_gradient
    dw, db = np.empty(shape, x.dtype), np.empty(shape[0], x.dtype)
    kernel(device, window, x, dy, dw, db, groups)
    return dw, db


def _takes_rows(device: CpuDevice, shape: Shape, w_shape: Shape, window: Window, least: int, itemsize: int) -> bool:
    """Whether rows are at least ``least`` long and memory is large enough.

    The rows of a dilated kernel are not consecutive, and a 1x1 kernel needs no columns.
    """
    N, _, H, W = shape
    _, CG, KH, KW = w_shape
    if window.dilation[0] != 1 or KH * KW == 1 or window.output_size(H, W)[1] * N < least:
        return False
    return KH * KW * CG * N * itemsize <= device.workspace.limit


# --- GEMM by rows -------------------------------------------------------------------------------------------------------


def held_bands(device: CpuDevice, x: Array, window: Window, groups: int) -> Iterator[tuple[int, Block, Array]]:
    """Yield the group, the band and the pixels it sees, (rows, KH*KW*C, width*N), for each group and band of output.

    A band is whole rows or, if few of them fit, parts of rows, so that several output rows share each stored image row.
    """
    N, C, H, W = x.shape
    CG, (KH, KW), SH = C // groups, window.kernel, window.stride[0]
    OH, OW = window.output_size(H, W)
    numbers = min(BAND_BYTES, device.workspace.limit) // (KW * CG * x.itemsize)
    width = min(max(numbers // ((KH + min(TOGETHER, OH - 1) * SH) * N), 1), OW)
    line = width * N + GAP
    height = min(max((numbers // line - KH) // SH + 1, 1), OH)
    memory = device.workspace.empty(((height - 1) * SH + KH, KW, CG, line), x.dtype)
    strides = (x.itemsize * SH * KW * CG * line, x.itemsize * line, x.itemsize)
    for g in range(groups):
        for first in range(0, OH, height):
            for left in range(0, OW, width):
                rows, columns = min(height, OH - first), min(width, OW - left)
                part = Block(slice(first, first + rows), slice(left, left + columns))
                held = memory[..., : columns * N].reshape(*memory.shape[:3], columns, N)
                hold(device, x[:, g * CG : (g + 1) * CG], window, part, held)
                yield g, part, np.ndarray((rows, KH * KW * CG, columns * N), x.dtype, memory, 0, strides)


def hold(device: CpuDevice, x: Array, window: Window, band: Block, held: Array) -> None:
    """Fill ``held`` with the part of the images (N, C, H, W) that a band sees, with zeros for padding."""
    SW, DW, (top, _, left, _) = window.stride[1], window.dilation[1], window.padding
    H, W = x.shape[2:]
    padded_rows, padded_columns = band.seen(window)
    inside, in_rows = steps_inside(padded_rows.start - top, 1, padded_rows.stop - padded_rows.start, H)
    first = padded_columns.start - left
    _, in_columns = steps_inside(first, 1, padded_columns.stop - padded_columns.start, W)
    inner = lines(device, x[:, :, in_rows, in_columns])
    held[: inside.start], held[inside.stop : padded_rows.stop - padded_rows.start] = 0, 0
    for kw in range(window.kernel[1]):
        out, seen = steps_inside(first + kw * DW - in_columns.start, SW, held.shape[3], inner.shape[2])
        row = held[inside, kw]
        row[:, :, : out.start], row[:, :, out.stop :] = 0, 0
        np.copyto(row[:, :, out], inner[:, :, seen].transpose(1, 0, 2, 3))


def lines(device: CpuDevice, x: Array) -> Array:
    """Return (N, C, H, W) as (C, H, W, N) with contiguous rows; copied only if the rows are not contiguous."""
    inner = x.transpose(1, 2, 3, 0)
    return inner if inner.strides[0] and inner[:1, :1].flags.c_contiguous else device.workspace.batch_last(x)


def by_rows(part: Array) -> Array:
    """Return (F, rows, columns, N) as (rows, F, columns*N), a view."""
    F, rows = part.shape[:2]
    return part.transpose(1, 0, 2, 3).reshape(rows, F, -1)


def forward(device: CpuDevice, window: Window, x: Array, w: Array, b: Array | None, y: Array, groups: int) -> None:
    """Write y (N, F, OH, OW), batch last."""
    F = w.shape[0]
    inner = y.transpose(1, 2, 3, 0)
    filters = np.ascontiguousarray(w.transpose(0, 2, 3, 1)).reshape(F, -1)
    for g, band, seen in held_bands(device, x, window, groups):
        mine = slice(g * F // groups, (g + 1) * F // groups)
        out = by_rows(inner[mine, band.rows, band.columns])
        np.matmul(filters[mine], seen, out=out)
        if b is not None:
            np.add(out, b[mine, None], out=out)


def weight_gradient(device: CpuDevice, window: Window, x: Array, dy: Array, dw: Array, db: Array, groups: int) -> None:
    """Write dL/dw (F, C/groups, KH, KW) and dL/db (F,)."""
    F, CG, KH, KW = dw.shape
    total = np.zeros((groups, KH * KW * CG, F // groups), x.dtype)
    db.fill(0)
    together = max(BAND_BYTES // (total[0].size * total.itemsize), 1)  # rows whose products are stored at one time
    for g, band, seen in held_bands(device, x, window, groups):
        mine = slice(g * F // groups, (g + 1) * F // groups)
        part = by_rows(lines(device, dy[:, mine, band.rows, band.columns]))
        # One axis at a time: the order of a sum over several axes would depend on the memory layout.
        db[mine] += part.sum(2).sum(0)
        gradient = part.transpose(0, 2, 1)
        for first in range(0, len(seen), together):
            some = slice(first, first + together)
            total[g] += np.matmul(seen[some], gradient[some]).sum(0)
    dw[...] = total.reshape(groups, KH, KW, CG, F // groups).transpose(0, 4, 3, 1, 2).reshape(dw.shape)


def flipped_filters(w: Array, groups: int) -> Array:
    """Return the filters of the convolution that gives the input gradient at stride 1: (C, F/groups, KH, KW)."""
    F, CG, KH, KW = w.shape
    flipped = w.reshape(groups, F // groups, CG, KH, KW)[..., ::-1, ::-1].transpose(0, 2, 1, 3, 4)
    return flipped.reshape(groups * CG, F // groups, KH, KW)
