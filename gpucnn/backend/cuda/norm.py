"""Batch normalisation on CUDA, with a two-stage reduction over each channel."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import THREADS, int32, pages
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.ops.norm import Axes

CHANNEL_BLOCKS = 512
"""The most blocks of a reduction over channels; constant, so that every GPU sums in the same order."""
CHANNEL_VALUES = 4096
"""The fewest values that a block sums."""
MOST_CHANNELS = 65_535
"""The largest second dimension of a grid."""


def _takes(x: Array, axes: Axes) -> bool:
    """Whether the kernels serve this case: float32, over all axes but the second."""
    return (
        x.dtype == np.float32
        and x.size > 0
        and x.ndim >= 2
        and axes == (0, *range(2, x.ndim))
        and x.shape[1] <= MOST_CHANNELS
    )


def _splits(C: int, values: int) -> tuple[int, np.int64]:
    """Return the number of blocks per channel and the values per block."""
    splits = max(min(-(-values // CHANNEL_VALUES), CHANNEL_BLOCKS // C), 1)
    return splits, np.int64(-(-values // splits))


def _serves(device: CudaDevice, x: Array, axes: Axes, eps: float) -> bool:
    return _takes(x, axes)


@implements(ops.standardise, on="cuda", when=_serves)
def standardise(device: CudaDevice, x: Array, axes: Axes, eps: float) -> tuple[Array, Array]:
    """The factor has shape (C,)."""
    (x,) = device.contiguous(x)
    N, C, Q = pages(x.shape)
    splits, each = _splits(C, N * Q)
    partial = device.empty("standardise", (splits, C, 3), x.dtype)
    mean, factor = (device.empty("standardise", (C,), x.dtype) for _ in range(2))
    y = device.empty("standardise", x.shape, x.dtype)
    shape = *int32(N, C), np.int64(Q)
    device.kernels.launch("channel_moments", (splits, C), (THREADS,), x, partial, *shape, each)
    device.kernels.each("channel_moments_merge", C, partial, mean, factor, *int32(splits, C), np.float32(eps))
    device.kernels.each("channel_standardise", x.size, x, mean, factor, y, *shape)
    return y, factor


def _gradient_serves(device: CudaDevice, dy: Array, y: Array, factor: Array, axes: Axes) -> bool:
    return _takes(y, axes)


@implements(ops.standardise_gradient, on="cuda", when=_gradient_serves)
def standardise_gradient(device: CudaDevice, dy: Array, y: Array, factor: Array, axes: Axes) -> Array:
    dy, y = device.contiguous(dy, y)
    N, C, Q = pages(y.shape)
    splits, each = _splits(C, N * Q)
    partial = device.empty("standardise_gradient", (splits, C, 2), y.dtype)
    means = device.empty("standardise_gradient", (2, C), y.dtype)
    dx = device.empty("standardise_gradient", y.shape, y.dtype)
    shape = *int32(N, C), np.int64(Q)
    device.kernels.launch("channel_sums", (splits, C), (THREADS,), dy, y, partial, *shape, each)
    device.kernels.each("channel_sums_merge", C, partial, means, *int32(splits, C), np.float32(1 / (N * Q)))
    device.kernels.each("channel_standardise_gradient", dx.size, dy, y, factor, means, dx, *shape)
    return dx
