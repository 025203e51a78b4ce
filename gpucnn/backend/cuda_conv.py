"""Convolution on CUDA: as an implicit product by our own kernels, or with columns in memory and cuBLAS.

The implicit product gathers its tile of columns into shared memory; nothing but the result is written, and bias, ReLU and
2x2 max-pooling can be done on the way out. It serves every float32 convolution; the other takes the deep and wide ones,
where cuBLAS makes up for writing the columns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.cuda_kernels import int32
from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cuda import CudaBackend

Array = Any
Shape = tuple[int, ...]

# Rows of the tile: (pixels of the tile, threads) of forward and input gradient; (depth of the tile, threads) of the
# weight gradient. As the kernels in kernels.cu are instantiated.
TILES = {8: (128, 128), 16: (128, 128), 64: (64, 256)}
WEIGHT_TILES = {8: (32, 64), 16: (64, 128), 64: (64, 256)}
WEIGHT_TILES_TF32 = {**WEIGHT_TILES, 8: (32, 32)}
LIMIT = 2**31

# Not measured on a device yet: chosen from tile sizes and by what cuBLAS needs to fill a GPU.
COLUMNS_DEPTH = 2048
"""Columns of a window (C/G * KH * KW) from which cuBLAS is taken, where there are also ..."""
COLUMNS_FILTERS = 256
"""... that many filters."""
WEIGHT_BLOCKS = 512
"""Blocks that a weight gradient is cut into; a constant, and not the device's, so that every GPU sums in one order."""
WEIGHT_PIXELS = 256
"""Pixels that a block of a weight gradient sums at least."""

log = logging.getLogger("gpucnn")


@lru_cache(maxsize=512)
def sizes(x_shape: Shape, w_shape: Shape, window: Window, groups: int) -> tuple[np.int32, ...]:
    """Return the arguments that kernels.cu calls SIZES."""
    N, C, H, W = x_shape
    F, _, KH, KW = w_shape
    top, _, left, _ = window.padding
    return int32(
        N, C, H, W, F, KH, KW, *window.stride, *window.dilation, top, left, *window.output_size(H, W), groups
    )  # fmt: skip


def tile(rows: int) -> int:
    """Return the rows of the tile for a product of so many rows."""
    return 8 if rows <= 8 else 16 if rows <= 32 else 64


def handles(x_shape: Shape, w_shape: Shape, window: Window, groups: int, *arrays: Any) -> bool:
    """Whether the kernels take this case: float32, something to compute, no image too large for 32-bit offsets."""
    if not all(array is None or array.dtype == np.float32 for array in arrays) or 0 in x_shape or 0 in w_shape:
        return False
    OH, OW = window.output_size(x_shape[2], x_shape[3])
    images = max(x_shape[1] * x_shape[2] * x_shape[3], w_shape[0] * OH * OW) < LIMIT // 2
    return images and groups < LIMIT // WEIGHT_BLOCKS // 64 and w_shape[1] * w_shape[2] * w_shape[3] < LIMIT // 64


def takes_columns(w_shape: Shape, groups: int) -> bool:
    """The table: whether a convolution goes through columns in memory and cuBLAS."""
    return groups == 1 and w_shape[0] >= COLUMNS_FILTERS and w_shape[1] * w_shape[2] * w_shape[3] >= COLUMNS_DEPTH


# --- implicit products -----------------------------------------------------------------------------------------------


def forward(backend: CudaBackend, x: Array, w: Array, b: Array | None, window: Window, groups: int) -> Array:
    """Return y (N, F, OH, OW)."""
    N, F = x.shape[0], w.shape[0]
    y = backend.empty("conv2d", (N, F, *window.output_size(x.shape[2], x.shape[3])), x.dtype)
    _forward(backend, "conv_forward", x, w, b, y, None, window, groups, y.size // F)
    return y


def relu_pool_forward(
    backend: CudaBackend, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_place: bool
) -> tuple[Array, Array | None]:
    """Return y (N, F, OH // 2, OW // 2) and, where needed, the place of each maximum, uint8."""
    OH, OW = window.output_size(x.shape[2], x.shape[3])
    y = backend.empty("conv2d_relu_max_pool2d", (x.shape[0], w.shape[0], OH // 2, OW // 2), x.dtype)
    place = backend.empty("conv2d_relu_max_pool2d", y.shape, np.uint8) if needs_place else None
    _forward(backend, "conv_relu_pool", x, w, b, y, place, window, groups, 4 * y.size // w.shape[0])
    return y, place


def _forward(
    backend: CudaBackend, name: str, x: Array, w: Array, b: Array | None, y: Array, place: Array | None,
    window: Window, groups: int, pixels: int,
) -> None:  # fmt: skip
    x, w = backend.contiguous(x, w)
    bias = w if b is None else backend.contiguous(b)[0]
    rows = tile(w.shape[0] // groups)
    width, threads = TILES[rows]
    grid = (-(-pixels // width), -(-(w.shape[0] // groups) // rows), groups)
    unused = y.view(np.uint8) if place is None else place
    flags = int32(b is not None, place is not None)
    backend.kernels.launch(
        f"{name}_{rows}", grid, (threads,), x, w, bias, y, unused, *flags, *sizes(x.shape, w.shape, window, groups)
    )


def input_gradient(
    backend: CudaBackend, dy: Array, place: Array | None, w: Array, shape: Shape, window: Window, groups: int
) -> Array:
    """Return dL/dx of ``shape``; with ``place``, dy is the gradient of the pooled image."""
    dy, w = backend.contiguous(dy, w)
    name = "conv_input_gradient" if place is None else "conv_relu_pool_input_gradient"
    dx = backend.empty("conv2d_input_gradient", shape, dy.dtype)
    N, C, H, W = shape
    rows = tile(C // groups)
    width, threads = TILES[rows]
    backend.kernels.launch(
        f"{name}_{rows}", (-(-N * H * W // width), -(-(C // groups) // rows), groups), (threads,),
        dy, dy.view(np.uint8) if place is None else place, w, dx, *sizes(shape, w.shape, window, groups),
    )  # fmt: skip
    return dx


def weight_gradient(
    backend: CudaBackend, x: Array, dy: Array, place: Array | None, shape: Shape, window: Window, groups: int
) -> tuple[Array, Array]:
    """Return dL/dw of ``shape`` and dL/db (F,); with ``place``, dy is the gradient of the pooled image."""
    x, dy = backend.contiguous(x, dy)
    name = "conv_weight_gradient" if place is None else "conv_relu_pool_weight_gradient"
    F, depth = shape[0], shape[1] * shape[2] * shape[3]
    rows = tile(F // groups)
    width, threads = (WEIGHT_TILES_TF32 if backend.in_tf32 else WEIGHT_TILES)[rows]
    tiles = -(-(depth + 1) // width), -(-(F // groups) // rows)
    pixels = dy.size // F * (1 if place is None else 4)
    splits = max(min(-(-pixels // WEIGHT_PIXELS), WEIGHT_BLOCKS // (tiles[0] * tiles[1] * groups)), 1)
    each = -(-pixels // splits)
    partial = backend.empty("conv2d_weight_gradient", (splits, F, depth + 1), x.dtype)
    backend.kernels.launch(
        f"{name}_{rows}", (*tiles, groups * splits), (threads,),
        x, dy, dy.view(np.uint8) if place is None else place, partial, np.int32(splits), np.int64(each),
        *sizes(x.shape, shape, window, groups),
    )  # fmt: skip
    dw = backend.empty("conv2d_weight_gradient", shape, x.dtype)
    db = backend.empty("conv2d_weight_gradient", (F,), x.dtype)
    backend.kernels.each("conv_weight_gradient_sum", F * (depth + 1), partial, dw, db, *int32(splits, F, depth))
    return dw, db


# --- columns in memory -------------------------------------------------------------------------------------------------


def im2col(backend: CudaBackend, x: Array, window: Window) -> Array:
    """Return the (N*OH*OW, C*KH*KW) columns of float32 images."""
    (x,) = backend.contiguous(x)
    N, C, H, W = x.shape
    OH, OW = window.output_size(H, W)
    columns = backend.empty("im2col", (N * OH * OW, C * window.kernel[0] * window.kernel[1]), x.dtype)
    backend.kernels.each("im2col", columns.size, x, columns, *sizes(x.shape, (1, C, *window.kernel), window, 1))
    return columns


def col2im(backend: CudaBackend, columns: Array, shape: Shape, window: Window) -> Array:
    """Return the image of ``shape`` whose pixels sum what the columns copied from them."""
    (columns,) = backend.contiguous(columns)
    x = backend.empty("col2im", shape, columns.dtype)
    backend.kernels.each("col2im", x.size, columns, x, *sizes(shape, (1, shape[1], *window.kernel), window, 1))
    return x


def transpose_pages(backend: CudaBackend, x: Array, y: Array, bias: Array | None = None) -> None:
    """Write x (N, R, S), each page transposed, plus bias (S,), into y (N, S, R)."""
    N, R, S = x.shape
    backend.kernels.launch(
        "transpose_pages", (-(-S // 32), -(-R // 32), min(N, 65_535)), (32, 8),
        x, x if bias is None else bias, y, *int32(N, R, S, bias is not None),
    )  # fmt: skip


def columns_forward(backend: CudaBackend, x: Array, w: Array, b: Array | None, window: Window) -> Array:
    """Return y (N, F, OH, OW) by im2col and one product."""
    x, w = backend.contiguous(x, w)
    F = w.shape[0]
    OH, OW = window.output_size(x.shape[2], x.shape[3])
    y = backend.empty("conv2d", (x.shape[0], F, OH, OW), x.dtype)

    def work(images: slice) -> None:
        rows = backend.xp.matmul(im2col(backend, x[images], window), w.reshape(F, -1).T)
        transpose_pages(backend, rows.reshape(-1, OH * OW, F), y[images].reshape(-1, F, OH * OW), b)

    in_parts("conv2d", backend, x.shape[0], work)
    return y


def columns_input_gradient(backend: CudaBackend, dy: Array, w: Array, shape: Shape, window: Window) -> Array:
    """Return dL/dx of ``shape``."""
    dy, w = backend.contiguous(dy, w)
    F = w.shape[0]
    dx = backend.empty("conv2d_input_gradient", shape, dy.dtype)

    def work(images: slice) -> None:
        columns = backend.xp.matmul(_rows(backend, dy[images]), w.reshape(F, -1))
        part = dx[images]
        backend.kernels.each("col2im", part.size, columns, part, *sizes(part.shape, w.shape, window, 1))

    in_parts("conv2d_input_gradient", backend, shape[0], work)
    return dx


def columns_weight_gradient(
    backend: CudaBackend, x: Array, dy: Array, shape: Shape, window: Window
) -> tuple[Array, Array]:
    """Return dL/dw of ``shape`` and dL/db."""
    x, dy = backend.contiguous(x, dy)
    parts: list[tuple[Array, Array]] = []

    def work(images: slice) -> None:
        rows = _rows(backend, dy[images])
        dw = backend.xp.matmul(rows.T, im2col(backend, x[images], window))
        parts.append((dw, rows.sum(0)))

    in_parts("conv2d_weight_gradient", backend, x.shape[0], work)
    dw, db = parts[0]
    for more_w, more_b in parts[1:]:
        dw, db = dw + more_w, db + more_b
    return dw.reshape(shape), db


def _rows(backend: CudaBackend, dy: Array) -> Array:
    """Return dy (N, F, OH, OW) as (N*OH*OW, F)."""
    N, F, OH, OW = dy.shape
    rows = backend.empty("conv2d", (N, OH * OW, F), dy.dtype)
    transpose_pages(backend, dy.reshape(N, F, OH * OW), rows)
    return rows.reshape(N * OH * OW, F)


def in_parts(what: str, backend: CudaBackend, N: int, work: Callable[[slice], None]) -> None:
    """Do ``work`` on all images; on half as many at a time, and again half, where memory does not suffice."""
    waiting = [slice(0, N)]
    while waiting:
        images = waiting.pop()
        try:
            work(images)
        except MemoryError:
            backend.free_memory()
            count = images.stop - images.start
            if count == 1:
                raise
            half = images.start + count // 2
            waiting += [slice(half, images.stop), slice(images.start, half)]
            backend.ran[f"{what}.halved"] += 1
            log.warning(
                "%s: not enough memory on %s for %d images at once: working in halves", what, backend.name, count
            )
