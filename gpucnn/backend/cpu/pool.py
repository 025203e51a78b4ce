"""Pooling on the CPU: one pass over the image per window element, for a block of channels at a time.

All arrays here are (C, H, W, N), the batch last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Block, Cut, Shape, Window
from gpucnn.backend.geometry import elements as kernel_elements
from gpucnn.backend.ops.pool import Divisor

BLOCK_BYTES = 512 * 1024
"""Size of a block of channels, so that all passes but the first read it from the second-level cache."""


def elements(window: Window, H: int, W: int) -> Iterator[tuple[int, Cut, Cut]]:
    """Yield each window element's index, the output pixels for which it lies in the image, and their input pixels."""
    OH, OW = window.output_size(H, W)
    for kh, kw, out, seen in kernel_elements(window, Block(slice(0, OH), slice(0, OW)), H, W):
        yield kh * window.kernel[1] + kw, out, seen


def channel_blocks(image: Array) -> Iterator[slice]:
    """Split the channels of a (C, H, W, N) image into blocks that fit the cache."""
    C = image.shape[0]
    count = max(BLOCK_BYTES * C // max(image.nbytes, 1), 1)
    return (slice(first, min(first + count, C)) for first in range(0, C, count))


def _max_serves(device: CpuDevice, x: Array, window: Window, needs_indices: bool = True) -> bool:
    return bool(x.size > 0)


@implements(ops.max_pool2d, on="cpu", when=_max_serves)
def max_pool2d(device: CpuDevice, x: Array, window: Window, needs_indices: bool = True) -> tuple[Array, Array | None]:
    """A later element of a window replaces the maximum only if it is greater.

    That does not find the index of a NaN; ``_choose_nans`` does.
    """
    N, C, H, W = x.shape
    OH, OW = window.output_size(H, W)
    inner = device.workspace.batch_last(x)
    count = window.kernel[0] * window.kernel[1]
    kind = np.uint8 if count <= 256 else np.int32
    y = device.workspace.empty((C, OH, OW, N), x.dtype)
    indices = device.workspace.empty(y.shape, kind) if needs_indices else None
    inside = list(elements(window, H, W))
    first_inside = np.full((OH, OW, 1), count, kind)
    for k, out, _ in reversed(inside):
        first_inside[out] = k

    def work(mine: slice) -> None:
        best = y[mine]
        best[...] = -np.inf
        if indices is None:
            for _, out, seen in inside:
                np.maximum(best[:, *out], inner[mine, *seen], out=best[:, *out])
            return
        chosen = indices[mine]
        chosen[...] = first_inside
        greater, candidate = np.empty(best.shape, bool), np.empty(best.shape, kind)
        for k, out, seen in inside:
            pixels = inner[mine, *seen]
            np.greater(pixels, best[:, *out], out=greater[:, *out])
            np.multiply(greater[:, *out].view(np.uint8), kind(k), out=candidate[:, *out])
            np.maximum(chosen[:, *out], candidate[:, *out], out=chosen[:, *out])
            np.maximum(best[:, *out], pixels, out=best[:, *out])
        if np.isnan(best.max()):
            _choose_nans(inside, inner[mine], chosen)

    for mine in channel_blocks(inner):
        work(mine)
    return y.transpose(3, 0, 1, 2), None if indices is None else indices.transpose(3, 0, 1, 2)


def _choose_nans(inside: list[tuple[int, Cut, Cut]], inner: Array, chosen: Array) -> None:
    """Set the index of each window with a NaN to its first NaN."""
    for k, out, seen in reversed(inside):
        chosen[:, *out][np.isnan(inner[:, *seen])] = k


def _max_gradient_serves(device: CpuDevice, dy: Array, indices: Array, shape: Shape, window: Window) -> bool:
    return bool(dy.size > 0)


@implements(ops.max_pool2d_gradient, on="cpu", when=_max_gradient_serves)
def max_pool2d_gradient(device: CpuDevice, dy: Array, indices: Array, shape: Shape, window: Window) -> Array:
    """For each window element, add the gradients of the outputs whose argmax it is."""
    N, C, H, W = shape
    dx, gradient, chosen = (
        _new(device, dy, shape),
        device.workspace.batch_last(dy),
        device.workspace.batch_last(indices),
    )
    inside, apart = list(elements(window, H, W)), _windows_apart(window)

    def work(mine: slice) -> None:
        dx[mine] = 0
        won = np.empty(chosen[mine].shape, bool)
        for k, out, seen in inside:
            target = dx[mine, *seen]
            np.equal(chosen[mine, *out], k, out=won[:, *out])
            if apart:  # windows do not overlap
                np.multiply(gradient[mine, *out], won[:, *out], out=target)
            else:
                target += gradient[mine, *out] * won[:, *out]

    for mine in channel_blocks(dx):
        work(mine)
    return dx.transpose(3, 0, 1, 2)


def _average_serves(device: CpuDevice, x: Array, window: Window, divisor: Divisor) -> bool:
    return bool(x.size > 0)


@implements(ops.avg_pool2d, on="cpu", when=_average_serves)
def avg_pool2d(device: CpuDevice, x: Array, window: Window, divisor: Divisor) -> Array:
    N, C, H, W = x.shape
    OH, OW = window.output_size(H, W)
    inner, inside = device.workspace.batch_last(x), list(elements(window, H, W))
    y = device.workspace.empty((C, OH, OW, N), x.dtype)
    share_of_each = _reciprocal(divisor, x.dtype)

    def work(mine: slice) -> None:
        total = y[mine]
        total[...] = 0
        for _, out, seen in inside:
            total[:, *out] += inner[mine, *seen]
        total *= share_of_each

    for mine in channel_blocks(inner):
        work(mine)
    return y.transpose(3, 0, 1, 2)


def _average_gradient_serves(device: CpuDevice, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> bool:
    return bool(dy.size > 0)


@implements(ops.avg_pool2d_gradient, on="cpu", when=_average_gradient_serves)
def avg_pool2d_gradient(device: CpuDevice, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> Array:
    N, C, H, W = shape
    dx, gradient, inside = _new(device, dy, shape), device.workspace.batch_last(dy), list(elements(window, H, W))
    share_of_each, apart = _reciprocal(divisor, dy.dtype), _windows_apart(window)

    def work(mine: slice) -> None:
        dx[mine] = 0
        each = gradient[mine] * share_of_each
        for _, out, seen in inside:
            if apart:
                dx[mine, *seen] = each[:, *out]
            else:
                dx[mine, *seen] += each[:, *out]

    for mine in channel_blocks(dx):
        work(mine)
    return dx.transpose(3, 0, 1, 2)


def _new(device: CpuDevice, like: Array, shape: Shape) -> Array:
    N, C, H, W = shape
    return device.workspace.empty((C, H, W, N), like.dtype)


def _windows_apart(window: Window) -> bool:
    return window.stride[0] >= window.extent[0] and window.stride[1] >= window.extent[1]


def _reciprocal(divisor: Divisor, dtype: Any) -> Array:
    if isinstance(divisor, tuple):
        rows, columns = (np.asarray(counts, dtype) for counts in divisor)
        return 1 / (rows[:, None] * columns)[:, :, None]
    return dtype.type(1 / divisor)
