"""Sums, means and extrema over axes. float16 is summed in float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.precision import HALF, is_half

Axes = tuple[int, ...]
Shape = tuple[int, ...]


def sum_of(array: Array, axes: Any, keepdims: bool) -> Array:
    """Return the sum over ``axes``, in the array's dtype; float16 is summed in float32.

    Where axis 0 is the outermost in memory, NumPy adds one image at a time, and the rounding error grows with their number.
    Here blocks of images are summed first. Along an axis without gaps NumPy sums in blocks itself, so batch-last arrays are
    left to it: blocks of their images would be gathered from all over the memory, at four times the cost.
    """
    if array.dtype != HALF:
        is_outermost = all(array.strides[0] >= step for step in array.strides)
        leads = is_outermost and (axes == 0 or (isinstance(axes, tuple) and 0 in axes))
        if leads and isinstance(array, np.ndarray) and len(array) >= 64 and array.dtype.kind == "f":
            return _sum_in_blocks(array, (axes,) if isinstance(axes, int) else axes, keepdims)
        return array.sum(axes, keepdims=keepdims)
    return array.sum(axes, dtype=np.float32, keepdims=keepdims).astype(HALF)


def _sum_in_blocks(array: Array, axes: Axes, keepdims: bool) -> Array:
    """Return the sum over ``axes``, which include 0: sum blocks along axis 0, then those sums and the remainder."""
    N = len(array)
    each = math.isqrt(N)
    whole = N - N % each
    blocks = array[:whole].reshape(whole // each, each, *array.shape[1:])
    result = blocks.sum((1, *(axis + 1 for axis in axes if axis)), keepdims=keepdims).sum(0)
    return result + array[whole:].sum(axes, keepdims=keepdims) if whole < N else result


def mean_of(array: Array, axes: Any, keepdims: bool, count: float) -> Array:
    """Return the sum over ``axes`` divided by ``count``, in the array's dtype; float16 is computed in float32."""
    if not is_half(array):
        return array.sum(axes, keepdims=keepdims) / count
    return (array.sum(axes, dtype=np.float32, keepdims=keepdims) / count).astype(HALF)


def divided(array: Array, count: float) -> Array:
    """Return ``array`` divided by ``count``, which may exceed the range of float16."""
    return (array.astype(np.float32) / count).astype(HALF) if is_half(array) else array / count


def _kept(reduced: Array, shape: Shape, axes: Axes) -> Array:
    """Restore the reduced axes, with length 1."""
    return reduced.reshape(tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _count(shape: Shape, axes: Axes) -> float:
    """Return how many elements are summed; NaN for none, so that their mean is NaN without a warning."""
    return math.prod(shape[i] for i in axes) or math.nan


@operation()
def sum(device: Device, x: Array, axes: Axes, keepdims: bool = False) -> Array:
    """Return the sum over ``axes``."""
    return device.xp.asarray(sum_of(x, axes, keepdims))


@operation()
def sum_gradient(device: Device, dy: Array, shape: Shape, axes: Axes) -> Array:
    """Return dL/dx of ``shape``, a view of dL/dy."""
    return device.xp.broadcast_to(_kept(dy, shape, axes), shape)


@operation()
def mean(device: Device, x: Array, axes: Axes, keepdims: bool = False) -> Array:
    """Return the mean over ``axes``; NaN if there are no elements."""
    return device.xp.asarray(mean_of(x, axes, keepdims, _count(x.shape, axes)))


@operation()
def mean_gradient(device: Device, dy: Array, shape: Shape, axes: Axes) -> Array:
    """Return dL/dx of ``shape``, a view of dL/dy divided by the number of elements."""
    return device.xp.broadcast_to(_kept(divided(dy, _count(shape, axes)), shape, axes), shape)


@operation()
def max(device: Device, x: Array, axes: Axes, keepdims: bool = False) -> Array:
    """Return the largest element over ``axes``."""
    return device.xp.asarray(x.max(axes, keepdims=keepdims))


@operation()
def min(device: Device, x: Array, axes: Axes, keepdims: bool = False) -> Array:
    """Return the smallest element over ``axes``."""
    return device.xp.asarray(x.min(axes, keepdims=keepdims))


@operation()
def is_extremum(device: Device, x: Array, y: Array, axes: Axes) -> Array:
    """Return where ``x`` equals its extremum ``y`` over ``axes``."""
    return x == _kept(y, x.shape, axes)


@operation()
def extremum_gradient(device: Device, dy: Array, chosen: Array, axes: Axes) -> Array:
    """Return dL/dx; equal extrema share the gradient, as in PyTorch's amax."""
    count = chosen.sum(axes, keepdims=True).astype(dy.dtype)
    return chosen * (_kept(dy, chosen.shape, axes) / count)


@operation()
def argmax(device: Device, x: Array, axis: int | None) -> Array:
    """Return the index of the first maximum along ``axis``, or in the flattened array."""
    return device.xp.asarray(x.argmax(axis))


@operation()
def unbroadcast(device: Device, gradient: Array, shape: Shape) -> Array:
    """Sum ``gradient`` over the axes along which an array of ``shape`` was broadcast."""
    lead = gradient.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and gradient.shape[lead + i] != 1)
    return sum_of(gradient, axes, keepdims=True).reshape(shape)


@operation()
def all_finite(device: Device, arrays: list[Array]) -> Array:
    """Return whether all elements of the arrays are finite, as a 0-d boolean array."""
    xp = device.xp
    finite = xp.isfinite(arrays[0]).all()
    for array in arrays[1:]:
        finite = finite & xp.isfinite(array).all()
    return xp.asarray(finite)


@operation()
def largest_magnitude(device: Device, arrays: list[Array]) -> Array:
    """Return the largest |x| of all the arrays, as a 0-d array."""
    largest = abs(arrays[0]).max()
    for array in arrays[1:]:
        largest = device.xp.maximum(largest, abs(array).max())
    return device.xp.asarray(largest)


@operation()
def usable_scale(device: Device, largest: Array) -> Array:
    """Return a valid divisor: ``largest`` (a 0-d array), or 1 if it is 0 or not finite."""
    xp = device.xp
    return xp.where((largest > 0) & xp.isfinite(largest), largest, xp.ones_like(largest))
