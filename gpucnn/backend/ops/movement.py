"""Making, filling, copying, casting, indexing and joining arrays."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import array_function, operation

Shape = tuple[int, ...]

ones_like = array_function("ones_like", "Return ones of the shape and dtype of x.")
copy = array_function("copy", "Return a copy in the memory order of x.", "array", copy=True)
c_ordered_copy = array_function("c_ordered_copy", "Return a C-ordered copy of x.", "array", copy=True, order="C")
select = array_function("select", "Return a where the condition is true, else b.", "where")


@operation()
def array(device: Device, data: Any, dtype: Any = None) -> Array:
    """Return a new array with a copy of ``data``: numbers, nested lists, a host array or an array of this device."""
    return device.xp.array(data, dtype=dtype, copy=True)


@operation()
def zeros(device: Device, shape: Shape | int, dtype: Any) -> Array:
    return device.xp.zeros(shape, dtype)


@operation()
def empty(device: Device, shape: Shape | int, dtype: Any) -> Array:
    """Return uninitialised memory."""
    return device.xp.empty(shape, dtype)


@operation()
def full(device: Device, shape: Shape | int, value: float, dtype: Any) -> Array:
    return device.xp.full(shape, value, dtype)


@operation()
def arange(device: Device, count: int) -> Array:
    """Return 0 to count - 1, int64."""
    return device.xp.arange(count)


@operation()
def cast(device: Device, x: Array, dtype: Any) -> Array:
    """Return a copy with another dtype."""
    return x.astype(dtype)


@operation()
def fill(device: Device, target: Array, value: Any) -> None:
    """Write ``value``, an array or a number, into ``target``, with broadcasting and casting."""
    target[...] = value


@operation()
def assign(device: Device, target: Array, key: Any, value: Any) -> None:
    """Write ``target[key] = value``."""
    target[key] = value


@operation()
def add_to(device: Device, target: Array, value: Array) -> None:
    """Add ``value`` to ``target`` in place."""
    target += value


@operation()
def copy_all(device: Device, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Copy each pair's second array into its first, of the same shape."""
    for target, source in pairs:
        target[...] = source


@operation()
def as_text(device: Device, x: Array, prefix: str) -> str:
    """Return the numbers as NumPy prints them, after ``prefix``."""
    return np.array2string(device.to_host(x), separator=", ", prefix=prefix, precision=4)


# --- shape -----------------------------------------------------------------------------------------------------------


@operation()
def reshape(device: Device, x: Array, shape: Shape) -> Array:
    """Return the elements in C order with another shape, as a view where possible."""
    return x.reshape(shape)


@operation()
def transpose(device: Device, x: Array, axes: Sequence[int]) -> Array:
    """Return a view with the axes in the order given."""
    return x.transpose(axes)


@operation()
def broadcast(device: Device, x: Array, shape: Shape) -> Array:
    """Return a read-only view of ``x`` repeated along new axes, and along those of length 1."""
    return device.xp.broadcast_to(x, shape)


@operation()
def swap_last_axes(device: Device, x: Array) -> Array:
    """Return a view with the last two axes exchanged."""
    return x.swapaxes(-1, -2)


@operation()
def index(device: Device, x: Array, key: Any) -> Array:
    """Return ``x[key]``: a view, or a copy if ``key`` has index arrays."""
    return x[key]


@operation()
def keep_key(device: Device, key: Any) -> Any:
    """Return the index expression with its arrays copied, so that later in-place changes do not affect it."""
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(part.copy() if isinstance(part, device.xp.ndarray) else part for part in parts)


@operation()
def index_gradient(device: Device, dy: Array, shape: Shape, key: Any, repeats: bool) -> Array:
    """Return dL/dx of ``shape``. With ``repeats``, an element indexed twice receives the sum of both gradients."""
    dx = device.xp.zeros(shape, dy.dtype)
    if repeats:
        device.xp.add.at(dx, key, dy)
    else:
        dx[key] = dy
    return dx


@operation()
def concatenate(device: Device, arrays: Sequence[Array], axis: int) -> Array:
    return device.xp.concatenate(arrays, axis)


@operation()
def split(device: Device, x: Array, lengths: Sequence[int], axis: int) -> list[Array]:
    """Return consecutive views of ``x`` with the given lengths along ``axis``."""
    ends = list(itertools.accumulate(lengths))
    lead = (slice(None),) * axis
    return [x[(*lead, slice(end - length, end))] for end, length in zip(ends, lengths, strict=True)]


# --- padding by repeated rows ----------------------------------------------------------------------------------------


@operation()
def extend(device: Device, x: Array, axis: int, length: int, inside: slice, border: Sequence[tuple[int, int]]) -> Array:
    """Return ``x`` with ``length`` rows along ``axis``: itself ``inside``; border rows (i, j) repeat row j; else zeros."""
    y = device.xp.zeros((*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype)
    y[_at(axis, inside)] = x
    for i, source in border:
        y[_at(axis, i)] = x[_at(axis, source)]
    return y


@operation()
def extend_gradient(device: Device, dy: Array, axis: int, inside: slice, border: Sequence[tuple[int, int]]) -> Array:
    """Return dL/dx: the gradient of every border row is added to the row it repeats."""
    dx = device.xp.array(dy[_at(axis, inside)], copy=True)
    for i, source in border:
        dx[_at(axis, source)] += dy[_at(axis, i)]
    return dx


def _at(axis: int, index: int | slice) -> tuple[slice | int, ...]:
    return (*(slice(None),) * axis, index)


@operation()
def order(device: Device, x: Array, axis: int, descending: bool) -> Array:
    """Return the indices that sort ``x`` along an axis, int64; NaN is the largest, and equal elements keep their order."""
    xp = device.xp
    if not descending:
        return xp.argsort(x, axis=axis, kind="stable")
    backwards = _at(axis, slice(None, None, -1))
    return x.shape[axis] - 1 - xp.argsort(x[backwards], axis=axis, kind="stable")[backwards]


@operation()
def key_along(device: Device, indices: Array, axis: int) -> tuple[Array, ...]:
    """Return the index expression that takes, along an axis, these elements of an array of as many axes."""
    grid = [
        device.xp.arange(n).reshape(tuple(n if i == other else 1 for other in range(indices.ndim)))
        for i, n in enumerate(indices.shape)
    ]
    grid[axis] = indices
    return tuple(grid)
