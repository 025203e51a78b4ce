"""Batch normalisation on CUDA, with a two-stage reduction over each channel."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import THREADS, int32, pages
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.ops.norm import scaled

CHANNEL_BLOCKS = 512
"""The most blocks of a reduction over channels; constant, so that every GPU sums in the same order."""
CHANNEL_VALUES = 4096
"""The fewest values that a block sums."""
MOST_CHANNELS = 65_535
"""The largest second dimension of a grid."""


def _serves(
    device: CudaDevice,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> bool:
    return _takes(x)


def _takes(x: Array) -> bool:
    """Whether the kernels serve these images: float32, not empty, not too many channels."""
    return bool(x.dtype == np.float32 and x.size > 0 and x.shape[1] <= MOST_CHANNELS)


def _splits(C: int, values: int) -> tuple[int, np.int64]:
    """Return the number of blocks per channel and the values per block."""
    splits = max(min(-(-values // CHANNEL_VALUES), CHANNEL_BLOCKS // C), 1)
    return splits, np.int64(-(-values // splits))


@implements(ops.batch_norm, on="cuda", when=_serves)
def batch_norm(
    device: CudaDevice,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> tuple[Array, Array, Array, Array]:
    (x,) = device.contiguous(x)
    N, C, Q = pages(x.shape)
    splits, each = _splits(C, N * Q)
    partial = device.empty("batch_norm", (splits, C, 3), x.dtype)
    mean, factor = (device.empty("batch_norm", (C,), x.dtype) for _ in range(2))
    shape = *int32(N, C), np.int64(Q)
    device.kernels.launch("channel_moments", (splits, C), (THREADS,), x, partial, *shape, each)
    device.kernels.each("channel_moments_merge", C, partial, mean, factor, *int32(splits, C), np.float32(eps))
    y = scaled(device, _normal(device, x, mean, factor), weight, bias, residual, relu)
    var = device.xp.maximum(1 / (factor * factor) - np.float32(eps), 0)
    return y, mean, var, factor


def _inference_serves(
    device: CudaDevice, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, eps: float, relu: bool,
) -> bool:  # fmt: skip
    return _takes(x)


@implements(ops.batch_norm_inference, on="cuda", when=_inference_serves)
def batch_norm_inference(
    device: CudaDevice, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, eps: float, relu: bool,
) -> tuple[Array, Array]:  # fmt: skip
    x, mean = device.contiguous(x, mean)
    factor = 1 / device.xp.sqrt(var + np.float32(eps))
    return scaled(device, _normal(device, x, mean, factor), weight, bias, residual, relu), factor


def _normal(device: CudaDevice, x: Array, mean: Array, factor: Array) -> Array:
    """Return (x - mean) factor."""
    N, C, Q = pages(x.shape)
    y = device.empty("batch_norm", x.shape, x.dtype)
    device.kernels.each("channel_standardise", x.size, x, mean, factor, y, *int32(N, C), np.int64(Q))
    return y


def _gradients_serve(
    device: CudaDevice, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    needs_residual: bool, training: bool = True,
) -> bool:  # fmt: skip
    return training and _takes(x)


@implements(ops.batch_norm_gradients, on="cuda", when=_gradients_serve)
def batch_norm_gradients(
    device: CudaDevice, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    needs_residual: bool, training: bool = True,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    if y is not None:
        dy = dy * (y > 0)
    dy, x = device.contiguous(dy, x)
    normal = _normal(device, x, mean, factor)
    N, C, Q = pages(x.shape)
    splits, each = _splits(C, N * Q)
    partial = device.empty("batch_norm_gradients", (splits, C, 2), x.dtype)
    means = device.empty("batch_norm_gradients", (2, C), x.dtype)
    dx = device.empty("batch_norm_gradients", x.shape, x.dtype)
    shape = *int32(N, C), np.int64(Q)
    device.kernels.launch("channel_sums", (splits, C), (THREADS,), dy, normal, partial, *shape, each)
    device.kernels.each("channel_sums_merge", C, partial, means, *int32(splits, C), np.float32(1 / (N * Q)))
    scale = factor if weight is None else factor * weight
    device.kernels.each("channel_standardise_gradient", dx.size, dy, normal, scale, means, dx, *shape)
    dbias, dweight = means[0] * np.float32(N * Q), means[1] * np.float32(N * Q)
    return dx, dweight, dbias, dy
