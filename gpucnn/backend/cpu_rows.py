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

from gpucnn.backend.cpu_conv import steps_inside
from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cpu import CpuBackend

Array = Any
Shape = tuple[int, int, int, int]

BAND_BYTES = 16 << 20
"""Memory of the image rows that are held at once."""
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
    return plain and (LONG if least is None else least) <= OW * N and KH * KW * CG * OW * N * itemsize <= limit


def bands(backend: CpuBackend, x: Array, window: Window, groups: int) -> Iterator[tuple[int, slice, Array]]:
    """Yield for each group and band of output rows the group, the rows, and what they see: (rows, KH*KW*C, OW*N)."""
    N, C, H, W = x.shape
    CG, (KH, KW), SH = C // groups, window.kernel, window.stride[0]
    OH, OW = window.output_size(H, W)
    line = OW * N + GAP
    row = KW * CG * line
    height = (min(BAND_BYTES, backend.workspace.limit) // (row * x.itemsize) - KH) // SH + 1
    height = min(max(height, 1), OH)
    memory = backend.workspace.empty(((height - 1) * SH + KH, KW, CG, line), x.dtype)
    held = memory[..., : OW * N].reshape(*memory.shape[:3], OW, N)
    strides = tuple(x.itemsize * step for step in (SH * row, line, 1))
    for g in range(groups):
        for first in range(0, OH, height):
            rows = slice(first, min(first + height, OH))
            hold(backend, x[:, g * CG : (g + 1) * CG], window, rows, held)
            yield g, rows, np.ndarray((rows.stop - first, KH * KW * CG, OW * N), x.dtype, memory, 0, strides)


def hold(backend: CpuBackend, x: Array, window: Window, rows: slice, held: Array) -> None:
    """Fill ``held`` with the image rows (N, C, H, W) that a band of output rows sees, zeros where it sees padding."""
    (SH, SW), KH, DW, (top, _, left, _) = window.stride, window.kernel[0], window.dilation[1], window.padding
    H, W = x.shape[2:]
    first, count = rows.start * SH - top, (rows.stop - rows.start - 1) * SH + KH
    inside, in_rows = steps_inside(first, 1, count, H)
    inner = backend.innermost(x[:, :, in_rows])
    held[: inside.start], held[inside.stop : count] = 0, 0
    for kw in range(window.kernel[1]):
        out, seen = steps_inside(kw * DW - left, SW, held.shape[3], W)
        row = held[inside, kw]
        row[:, :, : out.start], row[:, :, out.stop :] = 0, 0
        np.copyto(row[:, :, out], inner[:, :, seen].transpose(1, 0, 2, 3))


def by_rows(part: Array) -> Array:
    """Return (F, rows, OW, N) as (rows, F, OW*N), a view."""
    F, rows = part.shape[:2]
    return part.transpose(1, 0, 2, 3).reshape(rows, F, -1)


def forward(backend: CpuBackend, x: Array, w: Array, b: Array | None, window: Window, groups: int, y: Array) -> None:
    """Write y (N, F, OH, OW), batch innermost."""
    F = w.shape[0]
    inner = y.transpose(1, 2, 3, 0)
    filters = np.ascontiguousarray(w.transpose(0, 2, 3, 1)).reshape(F, -1)
    for g, rows, seen in bands(backend, x, window, groups):
        mine = slice(g * F // groups, (g + 1) * F // groups)
        out = by_rows(inner[mine, rows])
        np.matmul(filters[mine], seen, out=out)
        if b is not None:
            np.add(out, b[mine, None], out=out)


def weight_gradient(
    backend: CpuBackend, x: Array, dy: Array, shape: Shape, window: Window, groups: int
) -> tuple[Array, Array]:
    """Return dL/dw of ``shape`` and dL/db (F,)."""
    F, CG, KH, KW = shape
    total = np.zeros((groups, KH * KW * CG, F // groups), x.dtype)
    together = max(BAND_BYTES // (total[0].size * total.itemsize), 1)  # rows whose products are held at once
    for g, rows, seen in bands(backend, x, window, groups):
        gradient = by_rows(backend.innermost(dy[:, g * F // groups : (g + 1) * F // groups, rows])).transpose(0, 2, 1)
        for first in range(0, len(seen), together):
            some = slice(first, first + together)
            total[g] += np.matmul(seen[some], gradient[some]).sum(0)
    dw = total.reshape(groups, KH, KW, CG, F // groups).transpose(0, 4, 3, 1, 2).reshape(shape)
    return np.ascontiguousarray(dw), dy.sum((0, 2, 3))


def turned_filters(w: Array, groups: int) -> Array:
    """Return the filters of the convolution that gives the input gradient at stride 1: (C, F/groups, KH, KW)."""
    F, CG, KH, KW = w.shape
    turned = w.reshape(groups, F // groups, CG, KH, KW)[..., ::-1, ::-1].transpose(0, 2, 1, 3, 4)
    return turned.reshape(groups * CG, F // groups, KH, KW)


def turned_window(window: Window) -> Window:
    """Return the window of that convolution, over dL/dy."""
    (EH, EW), (top, bottom, left, right) = window.extent, window.padding
    return window.with_padding((EH - 1 - top, EH - 1 - bottom, EW - 1 - left, EW - 1 - right))
