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
    return _takes(device, x, weight, bias, residual)


def _takes(device: CudaDevice, x: Array, *others: Array | None) -> bool:
    """Whether the kernels serve these images: of one dtype with the other arrays, not empty, not too many channels."""
    return device.takes(x, *others) and bool(x.size > 0 and x.shape[1] <= MOST_CHANNELS)


def _wide(*arrays: Array) -> bool:
    return all(array.dtype == np.float32 for array in arrays)


def _splits(C: int, values: int) -> tuple[int, np.int64]:
    """Return the number of blocks per channel and the values per block."""
    splits = max(min(-(-values // CHANNEL_VALUES), CHANNEL_BLOCKS // C), 1)
    return splits, np.int64(-(-values // splits))


@implements(ops.batch_norm, on="cuda", when=_serves, half=True)
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
    partial = device.empty("batch_norm", (splits, C, 3), np.float32)
    mean, var, factor = (device.empty("batch_norm", (C,), np.float32) for _ in range(3))
    kernels = device.kernels("norm", x.dtype)
    kernels.launch("channel_moments", (splits, C), (THREADS,), x, partial, *int32(N, C), np.int64(Q), each)
    kernels.each("channel_moments_merge", C, partial, mean, var, factor, *int32(splits, C), np.float32(eps))
    return _normalise(device, x, mean, factor, weight, bias, residual, relu), mean, var, factor


def _inference_serves(
    device: CudaDevice, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, eps: float, relu: bool,
) -> bool:  # fmt: skip
    return _takes(device, x, weight, bias, residual) and _wide(mean, var)


@implements(ops.batch_norm_inference, on="cuda", when=_inference_serves, half=True)
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
    device.kernels("norm", x.dtype).each(
        "channel_normalise", x.size, x, mean, factor, *given, y, *flags, *int32(N, C), np.int64(Q)
    )
    return y


def _gradients_serve(
    device: CudaDevice, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    needs_residual: bool, training: bool = True,
) -> bool:  # fmt: skip
    return training and _takes(device, x, dy, y, weight) and _wide(mean, factor)


@implements(ops.batch_norm_gradients, on="cuda", when=_gradients_serve, half=True)
def batch_norm_gradients(
    device: CudaDevice, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    needs_residual: bool, training: bool = True,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    dy, x = device.contiguous(dy, x)
    relu = y is not None
    output = dy if y is None else device.contiguous(y)[0]
    N, C, Q = pages(x.shape)
    splits, each = _splits(C, N * Q)
    partial = device.empty("batch_norm_gradients", (splits, C, 2), np.float32)
    sums = device.empty("batch_norm_gradients", (2, C), np.float32)
    gradients = sums if x.dtype == np.float32 else device.empty("batch_norm_gradients", (2, C), x.dtype)
    dx = device.empty("batch_norm_gradients", x.shape, x.dtype)
    g = device.empty("batch_norm_gradients", x.shape, x.dtype) if relu and needs_residual else None
    shape = *int32(N, C), np.int64(Q)
    known = dy, output, x, mean, factor
    kernels = device.kernels("norm", x.dtype)
    kernels.launch("channel_sums", (splits, C), (THREADS,), *known, partial, *int32(relu), *shape, each)
    kernels.each("channel_sums_merge", C, partial, sums, gradients, *int32(splits, C))
    kernels.each(
        "channel_normalise_gradient", dx.size, *known, x if weight is None else device.contiguous(weight)[0], sums,
        dx, dx if g is None else g, np.float32(1 / (N * Q)), *int32(weight is not None, relu, g is not None), *shape,
    )  # fmt: skip
    return dx, gradients[1], gradients[0], dy if g is None else g


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
