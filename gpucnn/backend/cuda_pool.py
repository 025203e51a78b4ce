"""Pooling and normalisation on CUDA: one thread for each output, or two stages over the values of a channel."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.base import Divisor
from gpucnn.backend.cuda_kernels import THREADS, int32, pages
from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cuda import CudaBackend

Array = Any
Shape = tuple[int, ...]

BYTE = 255
"""Window elements up to which a place fits one byte."""
CHANNEL_BLOCKS = 512
"""Blocks that a reduction over channels is cut into; a constant, so that every GPU sums in one order."""
CHANNEL_VALUES = 4096
"""Values that a block sums at least."""
MOST_CHANNELS = 65_535
"""What a grid takes along its second axis."""


@lru_cache(maxsize=512)
def sizes(shape: Shape, window: Window) -> tuple[Any, ...]:
    """Return the arguments that kernels.cu calls POOL_SIZES."""
    N, C, H, W = shape
    top, _, left, _ = window.padding
    return np.int64(N * C), *int32(
        H, W, *window.kernel, *window.stride, *window.dilation, top, left, *window.output_size(H, W)
    )  # fmt: skip


def handles(*arrays: Array) -> bool:
    """Whether the kernels take these arrays."""
    return all(array.dtype == np.float32 and array.size for array in arrays)


def knows_place(place: Array, window: Window) -> bool:
    """Whether ``place`` is what ``maximum`` returns for this window."""
    return bool(place.dtype == (np.uint8 if window.kernel[0] * window.kernel[1] <= BYTE else np.int32))


def maximum(backend: CudaBackend, x: Array, window: Window, needs_place: bool) -> tuple[Array, Array | None]:
    """Return y (N, C, OH, OW) and, where needed, the place of each maximum."""
    (x,) = backend.contiguous(x)
    small = window.kernel[0] * window.kernel[1] <= BYTE
    y = backend.empty("max_pool2d", (*x.shape[:2], *window.output_size(*x.shape[2:])), x.dtype)
    place = backend.empty("max_pool2d", y.shape, np.uint8 if small else np.int32) if needs_place else None
    unused = y.view(np.uint8 if small else np.int32) if place is None else place
    backend.kernels.each(
        "max_pool_byte" if small else "max_pool_int", y.size,
        x, y, unused, np.int32(needs_place), *sizes(x.shape, window),
    )  # fmt: skip
    return y, place


def maximum_gradient(backend: CudaBackend, dy: Array, place: Array, shape: Shape, window: Window) -> Array:
    """Return dL/dx of ``shape``."""
    dy, place = backend.contiguous(dy, place)
    dx = backend.empty("max_pool2d_gradient", shape, dy.dtype)
    name = "max_pool_gradient_byte" if place.dtype == np.uint8 else "max_pool_gradient_int"
    backend.kernels.each(name, dx.size, dy, place, dx, *sizes(shape, window))
    return dx


def average(backend: CudaBackend, x: Array, window: Window, divisor: Divisor) -> Array:
    """Return y (N, C, OH, OW)."""
    (x,) = backend.contiguous(x)
    y = backend.empty("avg_pool2d", (*x.shape[:2], *window.output_size(*x.shape[2:])), x.dtype)
    rows, columns, *number = _divisor(backend, x, divisor)
    backend.kernels.each("average_pool", y.size, x, rows, columns, y, *number, *sizes(x.shape, window))
    return y


def average_gradient(backend: CudaBackend, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> Array:
    """Return dL/dx of ``shape``."""
    (dy,) = backend.contiguous(dy)
    dx = backend.empty("avg_pool2d_gradient", shape, dy.dtype)
    rows, columns, *number = _divisor(backend, dy, divisor)
    backend.kernels.each("average_pool_gradient", dx.size, dy, rows, columns, dx, *number, *sizes(shape, window))
    return dx


def _divisor(backend: CudaBackend, unused: Array, divisor: Divisor) -> tuple[Any, ...]:
    """Return the counts of rows and columns, the one divisor, and which of the two counts."""
    if not isinstance(divisor, tuple):
        return unused, unused, np.float32(divisor), np.int32(0)
    rows, columns = (backend.constant(tuple(counts), np.float32) for counts in divisor)
    return rows, columns, np.float32(1), np.int32(1)


# --- normalisation over the batch ----------------------------------------------------------------------------------------


def standardises(x: Array, axes: tuple[int, ...]) -> bool:
    """Whether the kernels take this case: float32, over all axes but the second."""
    return handles(x) and x.ndim >= 2 and axes == (0, *range(2, x.ndim)) and x.shape[1] <= MOST_CHANNELS


def _splits(C: int, values: int) -> tuple[int, np.int64]:
    """Return the number of blocks for each channel and the values of each."""
    splits = max(min(-(-values // CHANNEL_VALUES), CHANNEL_BLOCKS // C), 1)
    return splits, np.int64(-(-values // splits))


def standardise(backend: CudaBackend, x: Array, eps: float) -> tuple[Array, Array]:
    """Return (x - mean) / sqrt(variance + eps) for each channel, and that factor, (C,)."""
    (x,) = backend.contiguous(x)
    N, C, Q = pages(x.shape)
    splits, each = _splits(C, N * Q)
    partial = backend.empty("standardise", (splits, C, 3), x.dtype)
    mean, factor = (backend.empty("standardise", (C,), x.dtype) for _ in range(2))
    y = backend.empty("standardise", x.shape, x.dtype)
    shape = *int32(N, C), np.int64(Q)
    backend.kernels.launch("channel_moments", (splits, C), (THREADS,), x, partial, *shape, each)
    backend.kernels.each("channel_moments_merge", C, partial, mean, factor, *int32(splits, C), np.float32(eps))
    backend.kernels.each("channel_standardise", x.size, x, mean, factor, y, *shape)
    return y, factor


def standardise_gradient(backend: CudaBackend, dy: Array, y: Array, factor: Array) -> Array:
    """Return dL/dx from dL/dy and what ``standardise`` returned."""
    dy, y = backend.contiguous(dy, y)
    N, C, Q = pages(y.shape)
    splits, each = _splits(C, N * Q)
    partial = backend.empty("standardise_gradient", (splits, C, 2), y.dtype)
    means = backend.empty("standardise_gradient", (2, C), y.dtype)
    dx = backend.empty("standardise_gradient", y.shape, y.dtype)
    shape = *int32(N, C), np.int64(Q)
    backend.kernels.launch("channel_sums", (splits, C), (THREADS,), dy, y, partial, *shape, each)
    backend.kernels.each("channel_sums_merge", C, partial, means, *int32(splits, C), np.float32(1 / (N * Q)))
    backend.kernels.each("channel_standardise_gradient", dx.size, dy, y, factor, means, dx, *shape)
    return dx
