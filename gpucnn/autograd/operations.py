"""Arithmetic, shape and reduction at array level: each operation returns its result and how to undo it.

The form is that of ``tape.py``. Broadcasting is undone in backward by summing over what was spread.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from gpucnn.autograd.tape import Backward
from gpucnn.backend import Array, Backend
from gpucnn.backend.ops.reduction import divided, mean_of
from gpucnn.backend.ops.reduction import sum_of as total

Result = tuple[Array, Backward | None]
Needs = tuple[bool, ...]


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``gradient`` over the axes along which an array of ``shape`` was spread."""
    if gradient.shape == shape:
        return gradient
    lead = gradient.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and gradient.shape[lead + i] != 1)
    return total(gradient, axes, keepdims=True).reshape(shape)


# --- arithmetic --------------------------------------------------------------------------------------------------


def _binary(
    y: Array, a: Array, b: Array, needs: Needs, da: Callable[[Array], Array], db: Callable[[Array], Array]
) -> Result:
    """Pair a result with its backward; da(dy) and db(dy) are the gradients before broadcasting is undone."""
    if not any(needs):
        return y, None
    a_shape, b_shape = a.shape, b.shape
    return y, lambda dy: (
        unbroadcast(da(dy), a_shape) if needs[0] else None,
        unbroadcast(db(dy), b_shape) if needs[1] else None,
    )


def add(backend: Backend, a: Array, b: Array, needs: Needs) -> Result:
    return _binary(a + b, a, b, needs, lambda dy: dy, lambda dy: dy)


def sub(backend: Backend, a: Array, b: Array, needs: Needs) -> Result:
    return _binary(a - b, a, b, needs, lambda dy: dy, lambda dy: -dy)


def mul(backend: Backend, a: Array, b: Array, needs: Needs) -> Result:
    return _binary(a * b, a, b, needs, lambda dy: dy * b, lambda dy: dy * a)


def div(backend: Backend, a: Array, b: Array, needs: Needs) -> Result:
    y = a / b
    return _binary(y, a, b, needs, lambda dy: dy / b, lambda dy: -dy * y / b)


def pow(backend: Backend, a: Array, b: Array, needs: Needs) -> Result:
    xp, y = backend.xp, a**b

    def by_base(dy: Array) -> Array:  # the derivative of a**0 is 0, also at a = 0
        return dy * xp.where(b == 0, xp.zeros_like(y), b * a ** xp.where(b == 0, xp.ones_like(b), b - 1))

    def by_exponent(dy: Array) -> Array:  # a**b at a = 0 does not change with b > 0
        return dy * y * xp.log(xp.where(a == 0, xp.ones_like(a), a))

    return _binary(y, a, b, needs, by_base, by_exponent)


def neg(backend: Backend, a: Array, needs: Needs) -> Result:
    return -a, (lambda dy: (-dy,)) if needs[0] else None


def matmul(backend: Backend, a: Array, b: Array, needs: Needs) -> Result:
    y = backend.matmul(a, b)
    if not any(needs):
        return y, None

    def backward(dy: Array) -> tuple[Array | None, Array | None]:
        # A vector is a matrix with one row (left) or one column (right) that the result has dropped.
        rows = a if a.ndim > 1 else a[None, :]
        columns = b if b.ndim > 1 else b[:, None]
        if a.ndim == 1:
            dy = dy[..., None, :] if b.ndim > 1 else dy[..., None]
        if b.ndim == 1:
            dy = dy[..., None]
        da = backend.matmul(dy, columns.swapaxes(-1, -2)) if needs[0] else None
        db = backend.matmul(rows.swapaxes(-1, -2), dy) if needs[1] else None
        return (
            None if da is None else unbroadcast(da, rows.shape).reshape(a.shape),
            None if db is None else unbroadcast(db, columns.shape).reshape(b.shape),
        )

    return y, backward


def exp(backend: Backend, a: Array, needs: Needs) -> Result:
    y = backend.xp.exp(a)
    return y, (lambda dy: (dy * y,)) if needs[0] else None


def log(backend: Backend, a: Array, needs: Needs) -> Result:
    return backend.xp.log(a), (lambda dy: (dy / a,)) if needs[0] else None


def sqrt(backend: Backend, a: Array, needs: Needs) -> Result:
    y = backend.xp.sqrt(a)
    return y, (lambda dy: (dy / (2 * y),)) if needs[0] else None


def abs(backend: Backend, a: Array, needs: Needs) -> Result:
    return backend.xp.abs(a), (lambda dy: (dy * backend.xp.sign(a),)) if needs[0] else None


# --- shape -------------------------------------------------------------------------------------------------------


def reshape(backend: Backend, a: Array, needs: Needs, shape: tuple[int, ...]) -> Result:
    before = a.shape
    return a.reshape(shape), (lambda dy: (dy.reshape(before),)) if needs[0] else None


def transpose(backend: Backend, a: Array, needs: Needs, axes: tuple[int, ...]) -> Result:
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return a.transpose(axes), (lambda dy: (dy.transpose(inverse),)) if needs[0] else None


def index(backend: Backend, a: Array, needs: Needs, key: Any, repeats: bool) -> Result:
    y = a[key]
    if not needs[0]:
        return y, None
    shape, dtype, xp = a.shape, a.dtype, backend.xp
    if repeats:  # an index tensor may be changed in place before backward
        parts = key if isinstance(key, tuple) else (key,)
        key = tuple(part.copy() if isinstance(part, xp.ndarray) else part for part in parts)

    def backward(dy: Array) -> tuple[Array]:
        dx = xp.zeros(shape, dtype)
        if repeats:  # an element chosen twice gets both gradients
            xp.add.at(dx, key, dy)
        else:
            dx[key] = dy
        return (dx,)

    return y, backward


def clone(backend: Backend, a: Array, needs: Needs) -> Result:
    return a.copy(), (lambda dy: (dy,)) if needs[0] else None


def to_dtype(backend: Backend, a: Array, needs: Needs, dtype: Any) -> Result:
    before = a.dtype
    return a.astype(dtype), (lambda dy: (dy.astype(before),)) if needs[0] and dtype.kind == "f" else None


def to_device(backend: Backend, a: Array, needs: Needs, target: Backend) -> Result:
    y = target.asarray(backend.to_host(a))
    return y, (lambda dy: (backend.asarray(target.to_host(dy)),)) if needs[0] else None


def concatenation(backend: Backend, *arrays: Array, needs: Needs, axis: int) -> Result:
    y = backend.xp.concatenate(arrays, axis)
    if not any(needs):
        return y, None
    ends = list(itertools.accumulate(a.shape[axis] for a in arrays))
    cuts = [slice(end - a.shape[axis], end) for a, end in zip(arrays, ends, strict=True)]
    lead = (slice(None),) * axis
    return y, lambda dy: [dy[(*lead, cut)] if need else None for cut, need in zip(cuts, needs, strict=True)]


# --- reductions --------------------------------------------------------------------------------------------------


def _spread(reduced: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """Give a reduced array its lost axes back, with length 1."""
    return reduced.reshape(tuple(1 if i in axes else n for i, n in enumerate(shape)))


def sum(backend: Backend, a: Array, needs: Needs, axes: tuple[int, ...], keepdims: bool) -> Result:
    shape, xp = a.shape, backend.xp
    y = xp.asarray(total(a, axes, keepdims))
    return y, (lambda dy: (xp.broadcast_to(_spread(dy, shape, axes), shape),)) if needs[0] else None


def mean(backend: Backend, a: Array, needs: Needs, axes: tuple[int, ...], keepdims: bool) -> Result:
    shape, xp = a.shape, backend.xp
    count = math.prod(shape[i] for i in axes) or math.nan
    y = xp.asarray(mean_of(a, axes, keepdims, count))  # a.mean would warn about the mean of nothing
    if not needs[0]:
        return y, None
    return y, lambda dy: (xp.broadcast_to(_spread(divided(dy, count), shape, axes), shape),)


def maximum(backend: Backend, a: Array, needs: Needs, axes: tuple[int, ...], keepdims: bool) -> Result:
    return _extremum(backend, a, backend.xp.asarray(a.max(axes, keepdims=keepdims)), needs, axes)


def minimum(backend: Backend, a: Array, needs: Needs, axes: tuple[int, ...], keepdims: bool) -> Result:
    return _extremum(backend, a, backend.xp.asarray(a.min(axes, keepdims=keepdims)), needs, axes)


def _extremum(backend: Backend, a: Array, y: Array, needs: Needs, axes: tuple[int, ...]) -> Result:
    if not needs[0]:
        return y, None
    chosen = a == _spread(y, a.shape, axes)

    def backward(dy: Array) -> tuple[Array]:  # equal extrema share the gradient, as PyTorch's amax does
        count = chosen.sum(axes, keepdims=True).astype(dy.dtype)
        return (chosen * (_spread(dy, chosen.shape, axes) / count),)

    return y, backward
