"""Convolutions with many channels and filters on CUDA, by kernels compiled for one kernel size, stride and dilation.

A kernel size is compiled when a convolution first has it, 64 of them at most, and held against the reference before
it is used. What they do not serve (few channels, groups, anything else) is left to ``conv``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda import conv, pool
from gpucnn.backend.cuda.conv import Shape
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import Grid, int32
from gpucnn.backend.cuda.proof import CLOSE, CLOSE_HALF, CLOSE_TF32, differs, distrust
from gpucnn.backend.cuda.proof_cases import Case
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Window
from gpucnn.backend.ops.fused import PAIRS
from gpucnn.backend.precision import HALF

MOST_VARIANTS = 64
"""The most combinations of kernel size, stride, dilation and precision that kernels are compiled for on a device."""
DEPTH, DEPTH_TF32 = 8, 16
"""Channels that are summed together: these kernels serve multiples of it."""
FILTERS = 16
"""The fewest rows of a tile that these kernels serve: below, most of it is empty."""

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = PRODUCTS = "wide_forward", "wide_input_gradient", "wide_weight_gradient"
COLUMNS = {16: 256, 32: 128, 64: 128, 128: 128}
"""Rows of a tile: its columns, which are pixels."""
SIDES = (32, 64)
"""Rows and columns of the tile of a weight gradient, which must have as many filters and channels."""
# Not measured on a device yet.
WEIGHT_BLOCKS = 1024
"""The most blocks of a weight gradient; constant, so that every GPU sums in the same order."""
WEIGHT_PIXELS = 256
"""The fewest pixels that a block of a weight gradient sums."""


def tile(rows: int) -> int:
    """Return the rows of the tile for a GEMM with this many rows."""
    return next((one for one in COLUMNS if rows <= one), 128)


def weight_tile(F: int, C: int) -> int:
    """Return the side of the tile for the weight gradient of F filters and C channels."""
    return SIDES[min(F, C) >= SIDES[1]]


def threads(rows: int, columns: int, tf32: bool) -> int:
    """Return the threads of a block for a tile, as WideTile in tiles.cuh has them."""
    if tf32:
        return rows // (4 if rows < 32 else 8 if rows < 64 else 16) * (columns // 4)
    return rows * columns // (64 if rows * columns > 32 * 32 else 32)


def macros(window: Window, product: str, rows: int, columns: int, fused: bool) -> tuple[str, ...]:
    """Return the options with which a kernel is compiled."""
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    names = {"KERNEL_H": KH, "KERNEL_W": KW, "STRIDE_H": SH, "STRIDE_W": SW, "DILATION_H": DH, "DILATION_W": DW}
    names |= {"PRODUCT": PRODUCTS.index(product), "ROWS": rows, "COLUMNS": columns, "FUSED": int(fused)}
    return tuple(f"-D{name}={number}" for name, number in names.items())


def launch(
    device: CudaDevice,
    window: Window,
    product: str,
    rows: int,
    columns: int,
    fused: bool,
    grid: Grid,
    x: Array,
    *rest: Any,
) -> None:
    """Run a kernel, compiled for its window, its tile and the dtype of x, the first of its arguments."""
    kernels = device.kernels("wide_conv", x.dtype, macros(window, product, rows, columns, fused))
    kernels.launch(product, grid, (threads(rows, columns, device.tiles_in_tf32(x.dtype)),), x, *rest)


def sizes(x_shape: Shape, w_shape: Shape, window: Window) -> tuple[np.int32, ...]:
    """Return the kernel arguments that wide_conv.cu calls WIDE_SIZES."""
    N, C, H, W = x_shape
    top, _, left, _ = window.padding
    return int32(N, C, H, W, w_shape[0], top, left, *window.output_size(H, W))


# --- which cases -----------------------------------------------------------------------------------------------------


def _wide(device: CudaDevice, x_shape: Shape, w_shape: Shape, window: Window, groups: int, *arrays: Any) -> bool:
    return groups == 1 and conv.takes(device, x_shape, w_shape, window, groups, *arrays) and min(w_shape[2:]) > 0


def _trusted(device: CudaDevice, window: Window, dtype: Any) -> bool:
    """Whether the kernels for this window gave correct results on this device; they are tested on first use."""
    key = window.kernel, window.stride, window.dilation, device.tiles_in_tf32(dtype), np.dtype(dtype)
    if device.proving:
        return True
    if key not in device.variants:
        capture = device.capture_state
        if len(device.variants) >= MOST_VARIANTS or (capture is not None and capture.mode == "capture"):
            return False  # nothing can be compiled in a capture; the eager run before it compiles
        try:
            why = _wrong(device, window, dtype)
        except MemoryError:  # nothing is known about the kernels
            return False
        except Exception as error:  # whatever CuPy, the compiler or the driver raise
            why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        device.variants[key] = why is None
        if why is not None:
            distrust(device, {"wide_conv": f"kernel {window.kernel}, stride {window.stride}: {why}"})
    return device.variants[key]


def _wrong(device: CudaDevice, window: Window, dtype: Any) -> str | None:
    """Hold all three products of a small convolution against the reference; return what is wrong."""
    rng = np.random.default_rng(0)
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    small = Window(window.kernel, window.stride, (KH // 2, 0, 0, KW // 2), window.dilation)
    shape, w_shape = (2, 32, DH * (KH - 1) + 1 + 2 * SH, DW * (KW - 1) + 2 + 2 * SW), (48, 32, KH, KW)
    dy_shape = 2, 48, *small.output_size(*shape[2:])
    x, w, b, dy = (rng.standard_normal(one).astype(dtype) for one in (shape, w_shape, (48,), dy_shape))
    tolerance = CLOSE_HALF if dtype == HALF else CLOSE_TF32 if device.in_tf32 else CLOSE
    for function, case in (
        (conv2d, Case(ops.conv2d, (x, w, b, small))),
        (conv2d_input_gradient, Case(ops.conv2d_input_gradient, (dy, w, shape, small))),
        (conv2d_weight_gradient, Case(ops.conv2d_weight_gradient, (x, dy, w_shape, small))),
    ):
        if why := differs(device, case, function, tolerance):
            return why
    return None


def is_wide(device: CudaDevice, dtype: Any, summed: int, rows: int) -> bool:
    """Whether the tiles suit a product of ``rows`` rows that sums over ``summed`` channels or filters for each tap."""
    return rows >= FILTERS and summed % (DEPTH_TF32 if device.tiles_in_tf32(dtype) else DEPTH) == 0


def has_wide_weights(F: int, C: int) -> bool:
    """Whether the tiles suit the weight gradient of F filters and C channels."""
    return min(F, C) >= SIDES[0]


def _forward_serves(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> bool:
    many = is_wide(device, x.dtype, w.shape[1], w.shape[0])
    return many and _wide(device, x.shape, w.shape, window, groups, x, w, b) and _trusted(device, window, x.dtype)


def _input_gradient_serves(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    many = is_wide(device, dy.dtype, w.shape[0], w.shape[1])
    return many and _wide(device, shape, w.shape, window, groups, dy, w) and _trusted(device, window, dy.dtype)


def _weight_gradient_serves(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    many = has_wide_weights(*shape[:2])
    return many and _wide(device, x.shape, shape, window, groups, x, dy) and _trusted(device, window, x.dtype)


def _fused_serves(
    device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> bool:
    return _forward_serves(device, x, w, b, window, groups)


def _fused_gradients_serve(
    device: CudaDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> bool:  # fmt: skip
    many = is_wide(device, x.dtype, *w.shape[:2]) or has_wide_weights(*w.shape[:2])
    known = many and pool.knows_indices(indices, PAIRS)
    return known and _wide(device, x.shape, w.shape, window, groups, x, w, dy) and _trusted(device, window, x.dtype)


# --- implementations -------------------------------------------------------------------------------------------------


@implements(ops.conv2d, on="cuda", when=_forward_serves, first=True, half=True)
def conv2d(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    return forward(device, x, w, b, window)


@implements(ops.conv2d_input_gradient, on="cuda", when=_input_gradient_serves, first=True, half=True)
def conv2d_input_gradient(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> Array:
    return input_gradient(device, dy, None, w, shape, window)


@implements(ops.conv2d_weight_gradient, on="cuda", when=_weight_gradient_serves, first=True, half=True)
def conv2d_weight_gradient(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    return weight_gradient(device, x, dy, None, shape, window)


@implements(ops.conv2d_relu_max_pool2d, on="cuda", when=_fused_serves, first=True, half=True)
def conv2d_relu_max_pool2d(
    device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> tuple[Array, Array | None]:
    OH, OW = window.output_size(x.shape[2], x.shape[3])
    y = device.empty("conv2d_relu_max_pool2d", (x.shape[0], w.shape[0], OH // 2, OW // 2), x.dtype)
    indices = device.empty("conv2d_relu_max_pool2d", y.shape, np.uint8) if needs_indices else None
    _forward(device, x, w, b, y, indices, window, fused=True)
    return y, indices


@implements(ops.conv2d_relu_max_pool2d_gradients, on="cuda", when=_fused_gradients_serve, first=True, half=True)
def conv2d_relu_max_pool2d_gradients(
    device: CudaDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    F, C = w.shape[:2]
    dx = None
    if requires_grad[0] and is_wide(device, dy.dtype, F, C):
        dx = input_gradient(device, dy, indices, w, x.shape, window)
    elif requires_grad[0]:
        dx = conv.input_gradient(device, dy, indices, w, x.shape, window, groups)
    if not requires_grad[1]:
        return dx, None, None
    if has_wide_weights(F, C):
        return (dx, *weight_gradient(device, x, dy, indices, w.shape, window))
    return (dx, *conv.weight_gradient(device, x, dy, indices, w.shape, window, groups))


# --- launches --------------------------------------------------------------------------------------------------------


def _packed(device: CudaDevice, w: Array, for_gradient: bool) -> Array:
    """Return the weights (taps, C, F), or (taps, F, C) for the input gradient."""
    packed = device.empty("conv2d", w.size, w.dtype)
    F, C, KH, KW = w.shape
    device.kernels("conv", w.dtype).each("pack_weights", w.size, w, packed, *int32(F, C, KH * KW, for_gradient))
    return packed


def forward(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window) -> Array:
    """Return y (N, F, OH, OW)."""
    F = w.shape[0]
    y = device.empty("conv2d", (x.shape[0], F, *window.output_size(x.shape[2], x.shape[3])), x.dtype)
    _forward(device, x, w, b, y, None, window, fused=False)
    return y


def _forward(
    device: CudaDevice,
    x: Array,
    w: Array,
    b: Array | None,
    y: Array,
    indices: Array | None,
    window: Window,
    fused: bool,
) -> None:
    x, w = device.contiguous(x, w)
    bias = w if b is None else device.contiguous(b)[0]
    F = w.shape[0]
    rows = tile(F)
    pixels = y.size // F * (4 if fused else 1)
    launch(
        device, window, FORWARD, rows, COLUMNS[rows], fused, (-(-pixels // COLUMNS[rows]), -(-F // rows)),
        x, _packed(device, w, False), bias, y, y.view(np.uint8) if indices is None else indices,
        *int32(b is not None, indices is not None), *sizes(x.shape, w.shape, window),
    )  # fmt: skip


def input_gradient(
    device: CudaDevice, dy: Array, indices: Array | None, w: Array, shape: Shape, window: Window
) -> Array:
    """Return dL/dx of ``shape``; with ``indices``, dy is the gradient of the pooled image."""
    dy, w = device.contiguous(dy, w)
    dx = device.empty("conv2d_input_gradient", shape, dy.dtype)
    N, C, H, W = shape
    SH, SW = window.stride
    rows = tile(C)
    pixels = N * -(-H // SH) * -(-W // SW)  # of the first remainder, which has the most
    launch(
        device, window, INPUT_GRADIENT, rows, COLUMNS[rows], indices is not None,
        (-(-pixels // COLUMNS[rows]), -(-C // rows), SH * SW),
        dy, dy.view(np.uint8) if indices is None else indices, _packed(device, w, True), dx,
        *sizes(shape, w.shape, window),
    )  # fmt: skip
    return dx


def weight_gradient(
    device: CudaDevice, x: Array, dy: Array, indices: Array | None, shape: Shape, window: Window
) -> tuple[Array, Array]:
    """Return dL/dw of ``shape`` and dL/db (F,); with ``indices``, dy is the gradient of the pooled image."""
    x, dy = device.contiguous(x, dy)
    F, C, KH, KW = shape
    side = weight_tile(F, C)
    tiles = KH * KW * -(-C // side), -(-F // side)
    pixels = dy.size // F * (1 if indices is None else 4)
    splits = max(min(-(-pixels // WEIGHT_PIXELS), WEIGHT_BLOCKS // (tiles[0] * tiles[1])), 1)
    each = -(-pixels // splits)
    partial = device.empty("conv2d_weight_gradient", (splits, F, C * KH * KW + 1), np.float32)
    launch(
        device, window, WEIGHT_GRADIENT, side, side, indices is not None, (*tiles, splits),
        x, dy, dy.view(np.uint8) if indices is None else indices, partial, np.int64(each), *sizes(x.shape, shape, window),
    )  # fmt: skip
    return conv.sum_of_splits(device, partial, shape, x.dtype)
