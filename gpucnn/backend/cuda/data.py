"""Gathering batches on CUDA, and the running metrics of an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import THREADS, int32
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements


def _serves(device: CudaDevice, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> bool:
    if images.dtype != np.uint8 or indices.dtype != np.int64 or not images.size * indices.size:
        return False
    return device.takes_dtype(dtype) and bool(scale.dtype == shift.dtype == np.float32)


@implements(ops.gather, on="cuda", when=_serves)
def gather(device: CudaDevice, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> Array:
    images, indices = device.contiguous(images, indices)
    M, C, H, W = images.shape
    y = device.empty("gather", (indices.size, C, H, W), dtype)
    device.kernels("data", y.dtype).each(
        "gather_normalised", y.size, images, indices, scale, shift, y,
        np.int64(M), *int32(indices.size, C), np.int64(H * W),
    )  # fmt: skip
    return y


def _next_serves(
    device: CudaDevice, images: Array, labels: Array, order: Array, seen: Array, count: int,
    scale: Array, shift: Array, dtype: Any,
) -> bool:  # fmt: skip
    known = images.dtype == np.uint8 and labels.dtype == np.int64 and scale.dtype == shift.dtype == np.float32
    return bool(known and device.takes_dtype(dtype))


@implements(ops.gather_next, on="cuda", when=_next_serves)
def gather_next(
    device: CudaDevice, images: Array, labels: Array, order: Array, seen: Array, count: int,
    scale: Array, shift: Array, dtype: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """The position in ``order`` is read on the device."""
    M, C, H, W = images.shape
    y = device.empty("gather", (count, C, H, W), dtype)
    taken = device.empty("gather", (count,), np.int64)
    device.kernels("data", y.dtype).each(
        "gather_next", y.size, images, labels, order, seen, scale, shift, y, taken,
        np.int64(M), np.int64(order.size), *int32(count, C), np.int64(H * W),
    )  # fmt: skip
    return y, taken


def _metrics_serve(device: CudaDevice, sums: Array, loss: Array, logits: Array, labels: Array) -> bool:
    return bool(loss.dtype == np.float32 and device.takes(logits) and labels.dtype == np.int64 and logits.size)


@implements(ops.update_metrics, on="cuda", when=_metrics_serve)
def update_metrics(device: CudaDevice, sums: Array, loss: Array, logits: Array, labels: Array) -> None:
    logits, labels = device.contiguous(logits, labels)
    device.kernels("data", logits.dtype).launch(
        "update_metrics", (1,), (THREADS,), loss, logits, labels, sums, *int32(*logits.shape)
    )
