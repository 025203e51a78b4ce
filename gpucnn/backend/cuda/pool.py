"""Pooling on CUDA, with one thread per output."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import int32
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Window
from gpucnn.backend.ops.pool import Divisor

Shape = tuple[int, ...]

BYTE = 255
"""The most window elements whose index fits one byte."""


@lru_cache(maxsize=512)
def sizes(shape: Shape, window: Window) -> tuple[Any, ...]:
    """Return the kernel arguments that pool.cu calls POOL_SIZES."""
    N, C, H, W = shape
    top, _, left, _ = window.padding
    return np.int64(N * C), *int32(
        H, W, *window.kernel, *window.stride, *window.dilation, top, left, *window.output_size(H, W)
    )  # fmt: skip


def knows_indices(indices: Array, window: Window) -> bool:
    """Whether ``indices`` have the dtype that ``max_pool2d`` returns for this window."""
    return bool(indices.dtype == (np.uint8 if window.kernel[0] * window.kernel[1] <= BYTE else np.int32))


def _max_serves(device: CudaDevice, x: Array, window: Window, needs_indices: bool = True) -> bool:
    return device.takes(x) and x.size > 0


@implements(ops.max_pool2d, on="cuda", when=_max_serves, half=True)
def max_pool2d(device: CudaDevice, x: Array, window: Window, needs_indices: bool = True) -> tuple[Array, Array | None]:
    (x,) = device.contiguous(x)
    small = window.kernel[0] * window.kernel[1] <= BYTE
    y = device.empty("max_pool2d", (*x.shape[:2], *window.output_size(*x.shape[2:])), x.dtype)
    indices = device.empty("max_pool2d", y.shape, np.uint8 if small else np.int32) if needs_indices else None
    unused = device.constant((0,), np.uint8 if small else np.int32) if indices is None else indices
    device.kernels("pool", x.dtype).each(
        "max_pool_byte" if small else "max_pool_int", y.size,
        x, y, unused, np.int32(needs_indices), *sizes(x.shape, window),
    )  # fmt: skip
    return y, indices


def _max_gradient_serves(device: CudaDevice, dy: Array, indices: Array, shape: Shape, window: Window) -> bool:
    return device.takes(dy) and dy.size > 0 and knows_indices(indices, window)


@implements(ops.max_pool2d_gradient, on="cuda", when=_max_gradient_serves, half=True)
def max_pool2d_gradient(device: CudaDevice, dy: Array, indices: Array, shape: Shape, window: Window) -> Array:
    dy, indices = device.contiguous(dy, indices)
    dx = device.empty("max_pool2d_gradient", shape, dy.dtype)
    name = "max_pool_gradient_byte" if indices.dtype == np.uint8 else "max_pool_gradient_int"
    device.kernels("pool", dy.dtype).each(name, dx.size, dy, indices, dx, *sizes(shape, window))
    return dx


def _average_serves(device: CudaDevice, x: Array, window: Window, divisor: Divisor) -> bool:
    return device.takes(x) and x.size > 0


@implements(ops.avg_pool2d, on="cuda", when=_average_serves, half=True)
def avg_pool2d(device: CudaDevice, x: Array, window: Window, divisor: Divisor) -> Array:
    (x,) = device.contiguous(x)
    y = device.empty("avg_pool2d", (*x.shape[:2], *window.output_size(*x.shape[2:])), x.dtype)
    rows, columns, *number = _divisor(device, divisor)
    device.kernels("pool", x.dtype).each("average_pool", y.size, x, rows, columns, y, *number, *sizes(x.shape, window))
    return y


def _average_gradient_serves(device: CudaDevice, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> bool:
    return device.takes(dy) and dy.size > 0


@implements(ops.avg_pool2d_gradient, on="cuda", when=_average_gradient_serves, half=True)
def avg_pool2d_gradient(device: CudaDevice, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> Array:
    (dy,) = device.contiguous(dy)
    dx = device.empty("avg_pool2d_gradient", shape, dy.dtype)
    rows, columns, *number = _divisor(device, divisor)
    device.kernels("pool", dy.dtype).each(
        "average_pool_gradient", dx.size, dy, rows, columns, dx, *number, *sizes(shape, window)
    )
    return dx


def _divisor(device: CudaDevice, divisor: Divisor) -> tuple[Any, ...]:
    """Return the counts of rows and columns, the single divisor, and whether the counts apply."""
    if not isinstance(divisor, tuple):
        unused = device.constant((0.0,), np.float32)
        return unused, unused, np.float32(divisor), np.int32(0)
    rows, columns = (device.constant(tuple(counts), np.float32) for counts in divisor)
    return rows, columns, np.float32(1), np.int32(1)
