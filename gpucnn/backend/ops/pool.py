"""Pooling: each window, or each bin, of a channel is reduced to one pixel."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.geometry import Pair, Shape, Window
from gpucnn.backend.ops.conv import patches_of, sum_of_patches

Divisor = float | tuple[list[int], list[int]]
"""The divisor of average pooling: one number, or the counts of each output row and of each output column."""
Bins = list[tuple[int, int]]
"""The start and end of each bin of one axis."""


@operation(widens=True)
def max_pool2d(device: Device, x: Array, window: Window, needs_indices: bool = True) -> tuple[Array, Array | None]:
    """Return each window's maximum and, if ``needs_indices``, its argmax in the window (row-major, the first of equals)."""
    patches = patches_of(device, x, window, fill=-float("inf"))
    N, C, OH, OW, KH, KW = patches.shape
    patches = patches.reshape(N, C, OH, OW, KH * KW)
    indices = patches.argmax(-1)
    y = device.xp.take_along_axis(patches, indices[..., None], -1)[..., 0]
    if any(window.padding):  # if all values are -inf, the argmax must not be a padded pixel
        inside = patches_of(device, device.xp.ones((1, 1, *x.shape[2:]), bool), window)
        first = inside.reshape(1, 1, OH, OW, KH * KW).argmax(-1)
        indices = device.xp.where(y == -float("inf"), first, indices)
    return y, indices.astype(device.xp.int16 if KH * KW > 127 else device.xp.int8)


@operation(widens=True)
def max_pool2d_gradient(device: Device, dy: Array, indices: Array, shape: Shape, window: Window) -> Array:
    """Return dL/dx: each output's gradient goes to the argmax of its window."""
    elements = device.xp.arange(window.kernel[0] * window.kernel[1], dtype=indices.dtype)
    patches = device.xp.where(indices[..., None] == elements, dy[..., None], device.xp.zeros((), dy.dtype))
    return sum_of_patches(device, patches.reshape(*dy.shape, *window.kernel), shape, window)


@operation(widens=True)
def avg_pool2d(device: Device, x: Array, window: Window, divisor: Divisor) -> Array:
    """Return each window's sum divided by ``divisor``; padded pixels count as 0."""
    return patches_of(device, x, window).sum((-2, -1)) / _counts(device, divisor, x.dtype)


@operation(widens=True)
def avg_pool2d_gradient(device: Device, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> Array:
    """Return dL/dx: each output's gradient is spread evenly over its window."""
    share = (dy / _counts(device, divisor, dy.dtype))[..., None, None]
    return sum_of_patches(device, device.xp.broadcast_to(share, (*dy.shape, *window.kernel)), shape, window)


def _counts(device: Device, divisor: Divisor, dtype: Any) -> Array:
    if isinstance(divisor, tuple):
        rows, columns = (device.asarray(counts, dtype) for counts in divisor)
        return rows[:, None] * columns
    return device.asarray(divisor, dtype)


@operation()
def indices_in_image(device: Device, indices: Array, window: Window, shape: tuple[int, ...]) -> Array:
    """Convert indices within windows to row * W + column within a channel of an image of ``shape``, int64."""
    xp, (OH, OW) = device.xp, window.output_size(*shape[2:])
    within = xp.asarray(indices).astype(xp.int64)
    rows = xp.arange(OH).reshape(OH, 1) * window.stride[0] - window.padding[0]
    columns = xp.arange(OW) * window.stride[1] - window.padding[2]
    row = rows + within // window.kernel[1] * window.dilation[0]
    column = columns + within % window.kernel[1] * window.dilation[1]
    return row * shape[3] + column


@operation()
def max_unpool2d(device: Device, x: Array, indices: Array, size: Pair) -> Array:
    """Return (N, C, *size) with each value at its index and zeros elsewhere. If an index repeats, the last value wins."""
    N, C = x.shape[:2]
    y = device.xp.zeros(N * C * size[0] * size[1], x.dtype)
    y[_flat(device, indices, size)] = x.reshape(-1)
    return y.reshape(N, C, *size)


@operation()
def max_unpool2d_gradient(device: Device, dy: Array, indices: Array, size: Pair) -> Array:
    """Return dL/dx: the elements of dL/dy at the indices."""
    return dy.reshape(-1)[_flat(device, indices, size)].reshape(indices.shape)


def _flat(device: Device, indices: Array, size: Pair) -> Array:
    N, C = indices.shape[:2]
    plane = device.xp.arange(N * C).reshape(N, C, 1, 1) * (size[0] * size[1])
    return (plane + indices).reshape(-1)


@operation()
def lp_pool2d(device: Device, x: Array, window: Window, p: float) -> tuple[Array, tuple[Array, Array, Array]]:
    """Return (sum |x|^p)^(1/p) of each window, and arrays for the gradient. Scaled so that no power overflows."""
    xp = device.xp
    size = abs(x)
    largest = size.max() if x.size else xp.ones((), x.dtype)
    scale = xp.where(largest > 0, largest, xp.ones((), x.dtype))
    total = avg_pool2d(device, (size / scale) ** p, window, 1.0)
    return total ** (1 / p) * scale, (size, scale, total)


@operation()
def lp_pool2d_gradient(
    device: Device, dy: Array, x: Array, kept: tuple[Array, Array, Array], window: Window, p: float
) -> Array:
    """Return dL/dx = dy sign(x) (|x| / y)^(p - 1)."""
    xp, (size, scale, total) = device.xp, kept
    positive = xp.where(total > 0, total, xp.ones((), x.dtype))
    share = xp.where(total > 0, dy * positive ** (1 / p - 1), xp.zeros((), x.dtype))
    spread = avg_pool2d_gradient(device, share, x.shape, window, 1.0)
    safe = xp.where(size > 0, size / scale, xp.ones((), x.dtype))
    return xp.where(size > 0, safe ** (p - 1), xp.zeros((), x.dtype)) * xp.sign(x) * spread


@operation()
def bin_maxima(device: Device, x: Array, rows: Bins, columns: Bins) -> tuple[Array, dict[Pair, Array]]:
    """Return the maximum of each bin, (N, C, OH, OW), and the argmax of each bin, (N, C)."""
    N, C, _, _ = x.shape
    y = device.xp.zeros((N, C, len(rows), len(columns)), x.dtype)
    indices = {}
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            pixels = x[:, :, top:bottom, left:right].reshape(N, C, (bottom - top) * (right - left))
            chosen = pixels.argmax(-1)
            y[:, :, i, j] = device.xp.take_along_axis(pixels, chosen[..., None], -1)[..., 0]
            indices[i, j] = chosen
    return y, indices


@operation()
def bin_indices(device: Device, indices: dict[Pair, Array], shape: Shape, rows: Bins, columns: Bins) -> Array:
    """Return the indices of ``bin_maxima`` in images of ``shape``, row * W + column, (N, C, OH, OW) int64."""
    N, C, _, W = shape
    found = device.xp.zeros((N, C, len(rows), len(columns)), "int64")
    for (i, j), chosen in indices.items():
        (top, _), (left, right) = rows[i], columns[j]
        found[:, :, i, j] = (top + chosen // (right - left)) * W + left + chosen % (right - left)
    return found


@operation()
def bin_maxima_gradient(
    device: Device, dy: Array, indices: dict[Pair, Array], shape: Shape, rows: Bins, columns: Bins
) -> Array:
    """Return dL/dx of ``shape``; where bins overlap, a pixel may be the maximum of several."""
    N, C = shape[:2]
    dx = device.xp.zeros(shape, dy.dtype)
    for (i, j), chosen in indices.items():
        (top, bottom), (left, right) = rows[i], columns[j]
        numbers = device.xp.arange((bottom - top) * (right - left))
        won = (chosen[..., None] == numbers) * dy[:, :, i, j, None]
        dx[:, :, top:bottom, left:right] += won.reshape(N, C, bottom - top, right - left).astype(dy.dtype)
    return dx
