"""Convolution on the CPU without a matrix of columns: a row of output pixels is one product, read where the image lies.

Images are held as (rows, KW, C, OW, N), the batch innermost: each padded row once for each column of the kernel, shifted.
There the KH*KW*C numbers under a row of output pixels lie at equal distances, whichever row it is: KH rows of the image that
follow each other are KH*KW*C rows of a matrix, and the next output row's matrix begins SH rows further on. So im2col's KH*KW
copies become KW, and the kernel's height costs nothing. Source: the idea of Anderson et al. 2017, "Low-memory GEMM-based
convolution algorithms for deep neural networks", in a batch-innermost layout.

Against the blocks of ``cpu_conv`` (one core, AVX-512, 3x3, 64 to 64 channels, 32x32 pixels, batch 32): 27 ms forward instead
of 41, 26 instead of 50 for each gradient. From 1.1 to 3 times faster for all shapes tried but 1x1 and very short rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.cpu_conv import Block, steps_inside
from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cpu import CpuBackend

Array = Any
Shape = tuple[int, int, int, int]

BAND_BYTES = 16 << 20
"""Memory of the image rows that are held at once."""
TOGETHER = 7
"""Output rows beside the first that a band has at least, where there are so many."""
GAP = 16
"""Numbers left free after each row: at distances of a power of two, the rows of a matrix fall into one set of the cache."""
LONG = 64
"""The least row of output pixels, times images, that pays as a product of its own."""
LONG_SUM = 256
"""The same for the weight gradient, whose product is as large as the filters however short the row."""


def handles(
    shape: Shape, w_shape: Shape, window: Window, groups: int, itemsize: int, limit: int, least: int | None = None
) -> bool:
    """Whether rows are long and memory is large enough; rows of a dilated kernel do not follow each other.

    least: the least row, ``LONG`` by default. A 1x1 kernel needs no columns to begin with.
    """
    N, _, H, W = shape
    _, CG, KH, KW = w_shape
    OW = window.output_size(H, W)[1]
    plain = window.dilation[0] == 1 and KH * KW > 1
    return plain and (LONG if least is None else least) <= OW * N and KH * KW * CG * N * itemsize <= limit


def bands(backend: CpuBackend, x: Array, window: Window, groups: int) -> Iterator[tuple[int, Block, Array]]:
    """Yield for each group and band of output pixels the group, the band, and what it sees: (rows, KH*KW*C, width*N).

    A band is whole rows, or where few of those would fit, a part of some: each image row is held for several output rows.
    """
    N, C, H, W = x.shape
    CG, (KH, KW), SH = C // groups, window.kernel, window.stride[0]
    OH, OW = window.output_size(H, W)
    numbers = min(BAND_BYTES, backend.limit_of_a_thread) // (KW * CG * x.itemsize)
    width = min(max(numbers // ((KH + min(TOGETHER, OH - 1) * SH) * N), 1), OW)
    line = width * N + GAP
    height = min(max((numbers // line - KH) // SH + 1, 1), OH)
    memory = backend.workspace.empty(((height - 1) * SH + KH, KW, CG, line), x.dtype)
    strides = tuple(x.itemsize * step for step in (SH * KW * CG * line, line, 1))
    for g in range(groups):
        for band in Block(slice(0, OH), slice(0, OW)).cut(height, 0):
            for part in (Block(band.rows, slice(i, min(i + width, OW))) for i in range(0, OW, width)):
                rows, columns = part.size
                held = memory[..., : columns * N].reshape(*memory.shape[:3], columns, N)
                hold(backend, x[:, g * CG : (g + 1) * CG], window, part, held)
                yield g, part, np.ndarray((rows, KH * KW * CG, columns * N), x.dtype, memory, 0, strides)


def hold(backend: CpuBackend, x: Array, window: Window, band: Block, held: Array) -> None:
    """Fill ``held`` with the part of the images (N, C, H, W) that a band sees, zeros where it sees padding."""
    SW, DW, (top, _, left, _) = window.stride[1], window.dilation[1], window.padding
    H, W = x.shape[2:]
    padded_rows, padded_columns = band.seen(window)
    inside, in_rows = steps_inside(padded_rows.start - top, 1, padded_rows.stop - padded_rows.start, H)
    first = padded_columns.start - left
    _, in_columns = steps_inside(first, 1, padded_columns.stop - padded_columns.start, W)
    inner = lines(backend, x[:, :, in_rows, in_columns])
    held[: inside.start], held[inside.stop : padded_rows.stop - padded_rows.start] = 0, 0
    for kw in range(window.kernel[1]):
        out, seen = steps_inside(first + kw * DW - in_columns.start, SW, held.shape[3], inner.shape[2])
        row = held[inside, kw]
        row[:, :, : out.start], row[:, :, out.stop :] = 0, 0
        np.copyto(row[:, :, out], inner[:, :, seen].transpose(1, 0, 2, 3))


def lines(backend: CpuBackend, x: Array) -> Array:
    """Return (N, C, H, W) as (C, H, W, N) with the numbers of a row side by side; a copy only where they are not."""
    inner = x.transpose(1, 2, 3, 0)
    return inner if inner.strides[0] and inner[:1, :1].flags.c_contiguous else backend.innermost(x)


def by_rows(part: Array) -> Array:
    """Return (F, rows, columns, N) as (rows, F, columns*N), a view."""
    F, rows = part.shape[:2]
    return part.transpose(1, 0, 2, 3).reshape(rows, F, -1)


def forward(backend: CpuBackend, window: Window, x: Array, w: Array, b: Array | None, y: Array, groups: int) -> None:
    """Write y (N, F, OH, OW), batch innermost."""
    F = w.shape[0]
    inner = y.transpose(1, 2, 3, 0)
    filters = np.ascontiguousarray(w.transpose(0, 2, 3, 1)).reshape(F, -1)
    for g, band, seen in bands(backend, x, window, groups):
        mine = slice(g * F // groups, (g + 1) * F // groups)
        out = by_rows(inner[mine, band.rows, band.columns])
        np.matmul(filters[mine], seen, out=out)
        if b is not None:
            np.add(out, b[mine, None], out=out)


def weight_gradient(
    backend: CpuBackend, window: Window, x: Array, dy: Array, dw: Array, db: Array, groups: int
) -> None:
    """Write dL/dw (F, C/groups, KH, KW) and dL/db (F,)."""
    F, CG, KH, KW = dw.shape
    total = np.zeros((groups, KH * KW * CG, F // groups), x.dtype)
    db.fill(0)
    together = max(BAND_BYTES // (total[0].size * total.itemsize), 1)  # rows whose products are held at once
    for g, band, seen in bands(backend, x, window, groups):
        mine = slice(g * F // groups, (g + 1) * F // groups)
        part = by_rows(lines(backend, dy[:, mine, band.rows, band.columns]))
        # By lines: the order of a sum over several axes would depend on how they lie in memory.
        db[mine] += part.sum(2).sum(0)
        gradient = part.transpose(0, 2, 1)
        for first in range(0, len(seen), together):
            some = slice(first, first + together)
            total[g] += np.matmul(seen[some], gradient[some]).sum(0)
    dw[...] = total.reshape(groups, KH, KW, CG, F // groups).transpose(0, 4, 3, 1, 2).reshape(dw.shape)


def turned_filters(w: Array, groups: int) -> Array:
    """Return the filters of the convolution that gives the input gradient at stride 1: (C, F/groups, KH, KW)."""
    F, CG, KH, KW = w.shape
    turned = w.reshape(groups, F // groups, CG, KH, KW)[..., ::-1, ::-1].transpose(0, 2, 1, 3, 4)
    return turned.reshape(groups * CG, F // groups, KH, KW)


def turned_window(window: Window) -> Window:
    """Return the window of that convolution, over dL/dy."""
    (EH, EW), (top, bottom, left, right) = window.extent, window.padding
    return window.with_padding((EH - 1 - top, EH - 1 - bottom, EW - 1 - left, EW - 1 - right))
