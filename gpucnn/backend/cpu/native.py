"""The compiled kernels of convolution and pooling (float32), registered before the NumPy implementations.

Images that are not batch-last in memory are copied; results are batch-last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Shape, Window
from gpucnn.backend.ops.pool import Divisor

LARGEST_KERNEL = 64
"""The most rows or columns of a convolution's window."""
LARGEST_POOL = 256
"""The most elements of a max-pooling window, whose indices are bytes."""
ACTIVATIONS = ("none", "relu", "hardswish", "hardsigmoid")
"""The activations that may follow a convolution, in the order of ``kernels.h``."""
LARGEST_NUMBER = 1 << 20
"""The largest stride, padding or dilation of a window."""
FLOAT = np.dtype(np.float32)


def serves(device: CpuDevice, *arrays: Array | None) -> bool:
    """Whether compiled kernels exist and all arrays are None or non-empty float32."""
    if device.kernels is None:
        return False
    return all(a is None or (a.dtype == FLOAT and a.size) for a in arrays)


def serves_window(window: Window) -> bool:
    return max(window.kernel) <= LARGEST_KERNEL and window.largest <= LARGEST_NUMBER


def serves_max_pool(window: Window) -> bool:
    return window.kernel[0] * window.kernel[1] <= LARGEST_POOL and window.largest <= LARGEST_NUMBER


# --- memory ----------------------------------------------------------------------------------------------------------


def batch_last(device: CpuDevice, x: Array, dense: bool = False) -> Array:
    """Return (N, C, H, W) ``x`` in batch-last memory, copied only if necessary.

    dense: whether rows and channels must follow each other, too.
    """
    N, C, H, W = x.shape
    sN, sC, sH, sW = x.strides
    size = x.itemsize
    if (N < 2 or sN == size) and (W < 2 or sW == N * size) and x.flags.aligned:
        row = W * N * size
        if not dense or ((H < 2 or sH == row) and (C < 2 or sC == H * row)):
            return x
    y = device.workspace.empty((C, H, W, N), x.dtype)
    if x.flags.c_contiguous and x.dtype == FLOAT:
        device.kernels.transpose(N, C * H * W, x.reshape(-1), y.reshape(-1), device.threads)
    else:
        np.copyto(y, x.transpose(1, 2, 3, 0))
    return y.transpose(3, 0, 1, 2)


def empty(device: CpuDevice, shape: Shape, dtype: Any = FLOAT) -> Array:
    N, C, H, W = shape
    return device.workspace.empty((C, H, W, N), dtype).transpose(3, 0, 1, 2)


def flat(x: Array) -> Array:
    """Return dense batch-last images as a 1-D view of their memory."""
    return x.transpose(1, 2, 3, 0).reshape(-1)


def _numbers(window: Window) -> tuple[int, ...]:
    return (*window.kernel, *window.stride, *window.padding, *window.dilation)


def _c_order(w: Array) -> Array:
    return w if w.flags.c_contiguous and w.flags.aligned else np.array(w, order="C")


# --- convolution -----------------------------------------------------------------------------------------------------


def _conv2d_serves(device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> bool:
    return serves(device, x, w, b) and serves_window(window)


@implements(ops.conv2d, on="cpu", when=_conv2d_serves)
def conv2d(device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    return convolution(device, x, w, b, window, groups)


@implements(ops.conv2d_relu, on="cpu", when=_conv2d_serves)
def conv2d_relu(device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    return convolution(device, x, w, b, window, groups, "relu")


def _conv2d_hard_serves(
    device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, activation: str,
    factor: float, shift: float,
) -> bool:  # fmt: skip
    return serves(device, x, w, b) and serves_window(window)


@implements(ops.conv2d_hard, on="cpu", when=_conv2d_hard_serves)
def conv2d_hard(
    device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, activation: str,
    factor: float, shift: float,
) -> Array:  # fmt: skip
    factor = factor / 6 if activation == "hardswish" else factor
    return convolution(device, x, w, b, window, groups, activation, factor, shift)


def convolution(
    device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, activation: str = "none",
    factor: float = 1.0, shift: float = 0.0,
) -> Array:  # fmt: skip
    """Return the convolution, followed by one of ``ACTIVATIONS`` with its two numbers."""
    F = w.shape[0]
    y = empty(device, (x.shape[0], F, *window.output_size(*x.shape[2:])))
    x, b = batch_last(device, x), None if b is None else _c_order(b)
    device.kernels.conv2d(
        x, F, groups, *_numbers(window), _c_order(w), b, y, None, ACTIVATIONS.index(activation), 0, factor, shift,
        device.threads,
    )  # fmt: skip
    return y


def _input_gradient_serves(
    device: CpuDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return serves(device, dy, w) and serves_window(window)


@implements(ops.conv2d_input_gradient, on="cpu", when=_input_gradient_serves)
def conv2d_input_gradient(
    device: CpuDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> Array:
    return _gradients(device, None, w, dy, None, shape, window, groups, (True, False))[0]


def _weight_gradient_serves(
    device: CpuDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    return serves(device, x, dy) and serves_window(window)


@implements(ops.conv2d_weight_gradient, on="cpu", when=_weight_gradient_serves)
def conv2d_weight_gradient(
    device: CpuDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    _, dw, db = _gradients(device, x, np.empty(shape, FLOAT), dy, None, x.shape, window, groups, (False, True))
    return dw, db


def _fused_serves(
    device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> bool:
    return serves(device, x, w, b) and serves_window(window)


@implements(ops.conv2d_relu_max_pool2d, on="cpu", when=_fused_serves)
def conv2d_relu_max_pool2d(
    device: CpuDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> tuple[Array, Array | None]:
    F = w.shape[0]
    OH, OW = window.output_size(*x.shape[2:])
    y = empty(device, (x.shape[0], F, OH // 2, OW // 2))
    indices = empty(device, (x.shape[0], F, OH // 2, OW // 2), np.uint8) if needs_indices else None
    x, b = batch_last(device, x), None if b is None else _c_order(b)
    device.kernels.conv2d(
        x, F, groups, *_numbers(window), _c_order(w), b, y, indices, ACTIVATIONS.index("relu"), 1, 1, 0, device.threads
    )
    return y, indices


def _fused_gradients_serve(
    device: CpuDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> bool:  # fmt: skip
    return serves(device, x, w, dy) and serves_window(window)


@implements(ops.conv2d_relu_max_pool2d_gradients, on="cpu", when=_fused_gradients_serve)
def conv2d_relu_max_pool2d_gradients(
    device: CpuDevice, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    if indices.dtype != np.uint8:
        indices = indices.astype(np.uint8)
    return _gradients(device, x, w, dy, batch_last(device, indices), x.shape, window, groups, requires_grad)


def _gradients(
    device: CpuDevice, x: Array | None, w: Array, dy: Array, indices: Array | None, shape: Shape, window: Window,
    groups: int, requires_grad: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """Return dL/dx, dL/dw and dL/db. ``requires_grad``: whether images, and whether parameters, require a gradient."""
    dx = empty(device, shape) if requires_grad[0] else None
    dw, db = (np.empty(w.shape, FLOAT), np.empty(w.shape[0], FLOAT)) if requires_grad[1] else (None, None)
    seen = None if x is None or not requires_grad[1] else batch_last(device, x)
    filters = _c_order(w) if requires_grad[0] else None
    device.kernels.conv2d_gradients(
        seen, batch_last(device, dy), indices, *shape, w.shape[0], groups, *_numbers(window), filters, dx, dw, db,
        device.threads,
    )  # fmt: skip
    return dx, dw, db


# --- pooling ---------------------------------------------------------------------------------------------------------


def _max_pool2d_serves(device: CpuDevice, x: Array, window: Window, needs_indices: bool = True) -> bool:
    return serves(device, x) and serves_max_pool(window)


@implements(ops.max_pool2d, on="cpu", when=_max_pool2d_serves)
def max_pool2d(device: CpuDevice, x: Array, window: Window, needs_indices: bool = True) -> tuple[Array, Array | None]:
    shape = (*x.shape[:2], *window.output_size(*x.shape[2:]))
    y = empty(device, shape)
    indices = empty(device, shape, np.uint8) if needs_indices else None
    device.kernels.max_pool2d(batch_last(device, x, True), *_numbers(window), y, indices, device.threads)
    return y, indices


def _max_pool2d_gradient_serves(device: CpuDevice, dy: Array, indices: Array, shape: Shape, window: Window) -> bool:
    return serves(device, dy) and serves_max_pool(window)


@implements(ops.max_pool2d_gradient, on="cpu", when=_max_pool2d_gradient_serves)
def max_pool2d_gradient(device: CpuDevice, dy: Array, indices: Array, shape: Shape, window: Window) -> Array:
    if indices.dtype != np.uint8:
        indices = indices.astype(np.uint8)
    dx, dy, indices = empty(device, shape), batch_last(device, dy, True), batch_last(device, indices, True)
    device.kernels.pool2d_gradient(dy, indices, None, *_numbers(window), dx, device.threads)
    return dx


def _avg_pool2d_serves(device: CpuDevice, x: Array, window: Window, divisor: Divisor) -> bool:
    return serves(device, x) and window.largest <= LARGEST_NUMBER


@implements(ops.avg_pool2d, on="cpu", when=_avg_pool2d_serves)
def avg_pool2d(device: CpuDevice, x: Array, window: Window, divisor: Divisor) -> Array:
    OH, OW = window.output_size(*x.shape[2:])
    y = empty(device, (*x.shape[:2], OH, OW))
    share = _share(divisor, OH, OW)
    device.kernels.avg_pool2d(batch_last(device, x, True), *_numbers(window), y, share, device.threads)
    return y


def _avg_pool2d_gradient_serves(device: CpuDevice, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> bool:
    return serves(device, dy) and window.largest <= LARGEST_NUMBER


@implements(ops.avg_pool2d_gradient, on="cpu", when=_avg_pool2d_gradient_serves)
def avg_pool2d_gradient(device: CpuDevice, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> Array:
    dx, share = empty(device, shape), _share(divisor, *dy.shape[2:])
    device.kernels.pool2d_gradient(batch_last(device, dy, True), None, share, *_numbers(window), dx, device.threads)
    return dx


def _share(divisor: Divisor, OH: int, OW: int) -> Array:
    """Return the reciprocal of each output pixel's divisor."""
    if isinstance(divisor, tuple):
        rows, columns = (np.asarray(counts, FLOAT) for counts in divisor)
        return 1 / (rows[:, None] * columns)
    return np.full((OH, OW), 1 / divisor, FLOAT)
