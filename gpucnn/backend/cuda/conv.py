"""Convolution on CUDA as an implicit GEMM, by kernels that serve every shape.

The kernels gather their tile of columns into shared memory. They write only the result, after bias, ReLU and 2x2
max-pooling if they are fused. They serve every float32 convolution that ``columns`` and ``wide_conv`` leave to them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda import pool
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import int32
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Window
from gpucnn.backend.ops.fused import PAIRS

Shape = tuple[int, ...]

# Rows of the tile: (pixels of the tile, threads) of forward and input gradient; (depth of the tile, threads) of the
# weight gradient. As the kernels in conv.cu are instantiated.
TILES = {8: (128, 128), 16: (128, 128), 64: (64, 256)}
WEIGHT_TILES = {8: (32, 64), 16: (64, 128), 64: (64, 256)}
WEIGHT_TILES_TF32 = {**WEIGHT_TILES, 8: (32, 32)}
LIMIT = 2**31
MOST_ROWS = 65_535
"""The largest second and third dimension of a grid."""

# Not measured on a device yet.
WEIGHT_BLOCKS = 512
"""The most blocks of a weight gradient; constant, so that every GPU sums in the same order."""
WEIGHT_PIXELS = 256
"""The fewest pixels that a block of a weight gradient sums."""


@lru_cache(maxsize=512)
def sizes(x_shape: Shape, w_shape: Shape, window: Window, groups: int) -> tuple[np.int32, ...]:
    """Return the kernel arguments that conv.cu calls SIZES."""
    N, C, H, W = x_shape
    F, _, KH, KW = w_shape
    top, _, left, _ = window.padding
    return int32(
        N, C, H, W, F, KH, KW, *window.stride, *window.dilation, top, left, *window.output_size(H, W), groups
    )  # fmt: skip


def tile(rows: int) -> int:
    """Return the rows of the tile for a GEMM with this many rows."""
    return 8 if rows <= 8 else 16 if rows <= 32 else 64


def takes(device: CudaDevice, x_shape: Shape, w_shape: Shape, window: Window, groups: int, *arrays: Any) -> bool:
    """Whether the kernels serve this case: float32 or float16, of sizes that fit."""
    return device.takes(*arrays) and fits(x_shape, w_shape, window, groups)


def fits(x_shape: Shape, w_shape: Shape, window: Window, groups: int) -> bool:
    """Whether the kernels serve these sizes: not empty, no image too large for 32-bit offsets."""
    if 0 in x_shape or 0 in w_shape:
        return False
    OH, OW = window.output_size(x_shape[2], x_shape[3])
    images = max(x_shape[1] * x_shape[2] * x_shape[3], w_shape[0] * OH * OW) < LIMIT // 2
    if max(w_shape[0] // groups, w_shape[1]) > MOST_ROWS * 64:  # 64 rows a tile
        return False
    return images and groups < LIMIT // WEIGHT_BLOCKS // 64 and w_shape[1] * w_shape[2] * w_shape[3] < LIMIT // 64


# --- implementations ---------------------------------------------------------------------------------------------------


def _im2col_serves(device: CudaDevice, x: Array, window: Window) -> bool:
    return takes(device, x.shape, (1, x.shape[1], *window.kernel), window, 1, x)


@implements(ops.im2col, on="cuda", when=_im2col_serves)
def im2col(device: CudaDevice, x: Array, window: Window) -> Array:
    (x,) = device.contiguous(x)
    N, C, H, W = x.shape
    OH, OW = window.output_size(H, W)
    columns = device.empty("im2col", (N * OH * OW, C * window.kernel[0] * window.kernel[1]), x.dtype)
    device.kernels("conv", x.dtype).each(
        "im2col", columns.size, x, columns, *sizes(x.shape, (1, C, *window.kernel), window, 1)
    )
    return columns


def _col2im_serves(device: CudaDevice, columns: Array, shape: Shape, window: Window) -> bool:
    return takes(device, shape, (1, shape[1], *window.kernel), window, 1, columns)


@implements(ops.col2im, on="cuda", when=_col2im_serves, half=True)
def col2im(device: CudaDevice, columns: Array, shape: Shape, window: Window) -> Array:
    (columns,) = device.contiguous(columns)
    x = device.empty("col2im", shape, columns.dtype)
    device.kernels("conv", x.dtype).each(
        "col2im", x.size, columns, x, *sizes(shape, (1, shape[1], *window.kernel), window, 1)
    )
    return x


def _forward_serves(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> bool:
    return takes(device, x.shape, w.shape, window, groups, x, w, b)


@implements(ops.conv2d, on="cuda", when=_forward_serves, half=True)
def conv2d(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    return forward(device, x, w, b, window, groups)


def _input_gradient_serves(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return takes(device, shape, w.shape, window, groups, dy, w)


@implements(ops.conv2d_input_gradient, on="cuda", when=_input_gradient_serves, half=True)
def conv2d_input_gradient(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> Array:
    return input_gradient(device, dy, None, w, shape, window, groups)


def _weight_gradient_serves(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return takes(device, x.shape, shape, window, groups, x, dy)


@implements(ops.conv2d_weight_gradient, on="cuda", when=_weight_gradient_serves, half=True)
def conv2d_weight_gradient(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    return weight_gradient(device, x, dy, None, shape, window, groups)


def _fused_serves(
    device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> bool:
    return takes(device, x.shape, w.shape, window, groups, x, w, b)


@implements(ops.conv2d_relu_max_pool2d, on="cuda", when=_fused_serves, half=True)
def conv2d_relu_max_pool2d(
    device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> tuple[Array, Array | None]:
    OH, OW = window.output_size(x.shape[2], x.shape[3])
    y = device.empty("conv2d_relu_max_pool2d", (x.shape[0], w.shape[0], OH // 2, OW // 2), x.dtype)
    indices = device.empty("conv2d_relu_max_pool2d", y.shape, np.uint8) if needs_indices else None
    _forward(device, "conv_relu_pool", x, w, b, y, indices, window, groups, 4 * y.size // w.shape[0])
    return y, indices


def _fused_gradients_serve(
    device: CudaDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> bool:  # fmt: skip
    fits = takes(device, x.shape, w.shape, window, groups, x, w, dy)
    return fits and pool.knows_indices(indices, PAIRS)


@implements(ops.conv2d_relu_max_pool2d_gradients, on="cuda", when=_fused_gradients_serve, half=True)
def conv2d_relu_max_pool2d_gradients(
    device: CudaDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    dx = input_gradient(device, dy, indices, w, x.shape, window, groups) if requires_grad[0] else None
    if not requires_grad[1]:
        return dx, None, None
    return (dx, *weight_gradient(device, x, dy, indices, w.shape, window, groups))


# --- implicit GEMM ----------------------------------------------------------------------------------------------------


def forward(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int) -> Array:
    """Return y (N, F, OH, OW)."""
    N, F = x.shape[0], w.shape[0]
    y = device.empty("conv2d", (N, F, *window.output_size(x.shape[2], x.shape[3])), x.dtype)
    _forward(device, "conv_forward", x, w, b, y, None, window, groups, y.size // F)
    return y


def _forward(
    device: CudaDevice, name: str, x: Array, w: Array, b: Array | None, y: Array, indices: Array | None,
    window: Window, groups: int, pixels: int,
) -> None:  # fmt: skip
    x, w = device.contiguous(x, w)
    bias = w if b is None else device.contiguous(b)[0]
    rows = tile(w.shape[0] // groups)
    width, threads = TILES[rows]
    grid = (-(-pixels // width), -(-(w.shape[0] // groups) // rows), groups)
    unused = y.view(np.uint8) if indices is None else indices
    flags = int32(b is not None, indices is not None)
    device.kernels("conv", x.dtype).launch(
        f"{name}_{rows}", grid, (threads,), x, w, bias, y, unused, *flags, *sizes(x.shape, w.shape, window, groups)
    )


def input_gradient(
    device: CudaDevice, dy: Array, indices: Array | None, w: Array, shape: Shape, window: Window, groups: int
) -> Array:
    """Return dL/dx of ``shape``; with ``indices``, dy is the gradient of the pooled image."""
    dy, w = device.contiguous(dy, w)
    name = "conv_input_gradient" if indices is None else "conv_relu_pool_input_gradient"
    dx = device.empty("conv2d_input_gradient", shape, dy.dtype)
    N, C, H, W = shape
    rows = tile(C // groups)
    width, threads = TILES[rows]
    device.kernels("conv", dy.dtype).launch(
        f"{name}_{rows}", (-(-N * H * W // width), -(-(C // groups) // rows), groups), (threads,),
        dy, dy.view(np.uint8) if indices is None else indices, w, dx, *sizes(shape, w.shape, window, groups),
    )  # fmt: skip
    return dx


def weight_gradient(
    device: CudaDevice, x: Array, dy: Array, indices: Array | None, shape: Shape, window: Window, groups: int
) -> tuple[Array, Array]:
    """Return dL/dw of ``shape`` and dL/db (F,); with ``indices``, dy is the gradient of the pooled image."""
    x, dy = device.contiguous(x, dy)
    name = "conv_weight_gradient" if indices is None else "conv_relu_pool_weight_gradient"
    F, depth = shape[0], shape[1] * shape[2] * shape[3]
    rows = tile(F // groups)
    width, threads = (WEIGHT_TILES_TF32 if device.tiles_in_tf32(x.dtype) else WEIGHT_TILES)[rows]
    tiles = -(-(depth + 1) // width), -(-(F // groups) // rows)
    pixels = dy.size // F * (1 if indices is None else 4)
    splits = max(min(-(-pixels // WEIGHT_PIXELS), WEIGHT_BLOCKS // (tiles[0] * tiles[1] * groups)), 1)
    each = -(-pixels // splits)
    partial = device.empty("conv2d_weight_gradient", (splits, F, depth + 1), np.float32)
    device.kernels("conv", x.dtype).launch(
        f"{name}_{rows}", (*tiles, groups * splits), (threads,),
        x, dy, dy.view(np.uint8) if indices is None else indices, partial, np.int32(splits), np.int64(each),
        *sizes(x.shape, shape, window, groups),
    )  # fmt: skip
    return sum_of_splits(device, partial, shape, x.dtype)


def sum_of_splits(device: CudaDevice, partial: Array, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """Return dL/dw of ``shape`` and dL/db (F,) from the float32 sums over parts of the pixels (splits, F, depth + 1)."""
    splits, F, length = partial.shape
    dw = device.empty("conv2d_weight_gradient", shape, dtype)
    db = device.empty("conv2d_weight_gradient", (F,), dtype)
    device.kernels("conv", dtype).each(
        "conv_weight_gradient_sum", F * length, partial, dw, db, *int32(splits, F, length - 1)
    )
    return dw, db


def transpose_pages(device: CudaDevice, x: Array, y: Array, bias: Array | None = None) -> None:
    """Write x (N, R, S), each page transposed, plus bias (S,), into y (N, S, R)."""
    N, R, S = x.shape
    device.kernels("conv", x.dtype).launch(
        "transpose_pages", (-(-S // 32), min(-(-R // 32), MOST_ROWS), min(N, MOST_ROWS)), (32, 8),
        x, x if bias is None else bias, y, *int32(N, R, S, bias is not None),
    )  # fmt: skip
