"""Batch normalisation on CUDA, with a two-stage reduction over each channel."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import THREADS, int32, pages
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements

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
    mean, var, factor = (device.empty("batch_norm", (C,), x.dtype) for _ in range(3))
    device.kernels("norm").launch(
        "channel_moments", (splits, C), (THREADS,), x, partial, *int32(N, C), np.int64(Q), each
    )
    device.kernels("norm").each(
        "channel_moments_merge", C, partial, mean, var, factor, *int32(splits, C), np.float32(eps)
    )
    return _normalise(device, x, mean, factor, weight, bias, residual, relu), mean, var, factor


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
    return _normalise(device, x, mean, factor, weight, bias, residual, relu), factor


def _normalise(
    device: CudaDevice, x: Array, mean: Array, factor: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, relu: bool,
) -> Array:  # fmt: skip
    """Return (x - mean) factor weight + bias + residual, or of that the ReLU, in one launch."""
    N, C, Q = pages(x.shape)
    y = device.empty("batch_norm", x.shape, x.dtype)
    given = [x if one is None else device.contiguous(one)[0] for one in (weight, bias, residual)]
    flags = int32(*(one is not None for one in (weight, bias, residual)), relu)
    device.kernels("norm").each(
        "channel_normalise", x.size, x, mean, factor, *given, y, *flags, *int32(N, C), np.int64(Q)
    )
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
    dy, x = device.contiguous(dy, x)
    relu = y is not None
    output = dy if y is None else device.contiguous(y)[0]
    N, C, Q = pages(x.shape)
    splits, each = _splits(C, N * Q)
    partial = device.empty("batch_norm_gradients", (splits, C, 2), x.dtype)
    sums = device.empty("batch_norm_gradients", (2, C), x.dtype)
    dx = device.empty("batch_norm_gradients", x.shape, x.dtype)
    g = device.empty("batch_norm_gradients", x.shape, x.dtype) if relu and needs_residual else None
    shape = *int32(N, C), np.int64(Q)
    known = dy, output, x, mean, factor
    device.kernels("norm").launch("channel_sums", (splits, C), (THREADS,), *known, partial, *int32(relu), *shape, each)
    device.kernels("norm").each("channel_sums_merge", C, partial, sums, *int32(splits, C))
    device.kernels("norm").each(
        "channel_normalise_gradient", dx.size, *known, mean if weight is None else device.contiguous(weight)[0], sums,
        dx, dx if g is None else g, np.float32(1 / (N * Q)), *int32(weight is not None, relu, g is not None), *shape,
    )  # fmt: skip
    return dx, sums[1], sums[0], dy if g is None else g


def _running_serves(
    device: CudaDevice, running_mean: Array, running_var: Array, mean: Array, var: Array, count: int, momentum: float
) -> bool:
    arrays = (running_mean, running_var, mean, var)
    return all(one.dtype == np.float32 and one.flags.c_contiguous and one.size for one in arrays)


@implements(ops.update_running_statistics, on="cuda", when=_running_serves)
def update_running_statistics(
    device: CudaDevice, running_mean: Array, running_var: Array, mean: Array, var: Array, count: int, momentum: float
) -> None:
    numbers = np.float32(count / (count - 1)), np.float32(momentum)
    device.kernels("norm").each(
        "update_running", mean.size, running_mean, running_var, mean, var, *numbers, *int32(mean.size)
    )
