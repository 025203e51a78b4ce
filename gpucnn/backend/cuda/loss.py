"""Losses on CUDA."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import THREADS, int32
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements

LOSSES = 65_536
"""The most losses that one block sums."""


def _cross_entropy_serves(device: CudaDevice, logits: Array, target: Array, needs_gradient: bool) -> bool:
    return bool(logits.dtype == np.float32 and logits.size)


@implements(ops.cross_entropy, on="cuda", when=_cross_entropy_serves)
def cross_entropy(device: CudaDevice, logits: Array, target: Array, needs_gradient: bool) -> tuple[Array, Array | None]:
    (logits,) = device.contiguous(logits)
    (target,) = device.contiguous(target.astype(np.int64, copy=False))
    N, C = logits.shape
    losses = device.empty("cross_entropy", (N,), logits.dtype)
    gradient = device.empty("cross_entropy", (N, C), logits.dtype) if needs_gradient else None
    device.kernels("loss").launch(
        "cross_entropy", (-(-N // 4),), (128,),
        logits, target, losses, logits if gradient is None else gradient, *int32(N, C, needs_gradient),
    )  # fmt: skip
    return losses, gradient


def _mean_serves(device: CudaDevice, losses: Array, divisor: float) -> bool:
    return bool(losses.dtype == np.float32 and 0 < losses.size <= LOSSES and losses.ndim == 1)


@implements(ops.mean_loss, on="cuda", when=_mean_serves)
def mean_loss(device: CudaDevice, losses: Array, divisor: float) -> Array:
    (losses,) = device.contiguous(losses)
    total = device.empty("mean_loss", (), losses.dtype)
    numbers = np.int64(losses.size), np.float32(divisor)
    device.kernels("loss").launch("mean_loss", (1,), (THREADS,), losses, total, *numbers)
    return total


def _scale_serves(device: CudaDevice, x: Array, factor: Array, divisor: float) -> bool:
    return bool(x.dtype == factor.dtype == np.float32 and x.size and x.flags.c_contiguous)


@implements(ops.scale, on="cuda", when=_scale_serves)
def scale(device: CudaDevice, x: Array, factor: Array, divisor: float) -> Array:
    y = device.empty("scale", x.shape, x.dtype)
    device.kernels("loss").each("scale", x.size, x, factor, y, np.float32(divisor), np.int64(x.size))
    return y
