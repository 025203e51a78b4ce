"""Arithmetic, shape and reduction operations on arrays. Each returns its result and its backward function.

Their form is described in ``tape.py``. The gradient of a broadcast operand is summed over the broadcast axes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn.autograd.tape import Backward
from gpucnn.backend import Array, Backend, ops

Result = tuple[Array, Backward | None]
RequiresGrad = tuple[bool, ...]


# --- arithmetic --------------------------------------------------------------------------------------------------


def _binary(
    backend: Backend,
    y: Array,
    a: Array,
    b: Array,
    requires_grad: RequiresGrad,
    da: Callable[[Array], Array],
    db: Callable[[Array], Array],
) -> Result:
    """Return a result and its backward; da(dy) and db(dy) are the gradients before the sum over broadcast axes."""
    if not any(requires_grad):
        return y, None
    a_shape, b_shape = a.shape, b.shape
    return y, lambda dy: (
        unbroadcast(backend, da(dy), a_shape) if requires_grad[0] else None,
        unbroadcast(backend, db(dy), b_shape) if requires_grad[1] else None,
    )


def unbroadcast(backend: Backend, gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``gradient`` over the axes along which an array of ``shape`` was broadcast."""
    return gradient if gradient.shape == shape else ops.unbroadcast(backend, gradient, shape)


def add(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad) -> Result:
    return _binary(backend, ops.add(backend, a, b), a, b, requires_grad, lambda dy: dy, lambda dy: dy)


def sub(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.subtract(backend, a, b)
    return _binary(backend, y, a, b, requires_grad, lambda dy: dy, lambda dy: ops.negative(backend, dy))


def mul(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.multiply(backend, a, b)
    return _binary(
        backend,
        y,
        a,
        b,
        requires_grad,
        lambda dy: ops.multiply(backend, dy, b),
        lambda dy: ops.multiply(backend, dy, a),
    )


def div(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.divide(backend, a, b)
    return _binary(
        backend,
        y,
        a,
        b,
        requires_grad,
        lambda dy: ops.divide(backend, dy, b),
        lambda dy: ops.divide_gradient(backend, dy, y, b),
    )


def pow(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.power(backend, a, b)
    return _binary(
        backend, y, a, b, requires_grad,
        lambda dy: ops.power_gradient(backend, dy, y, a, b),
        lambda dy: ops.exponent_gradient(backend, dy, y, a),
    )  # fmt: skip


def neg(backend: Backend, a: Array, requires_grad: RequiresGrad) -> Result:
    return ops.negative(backend, a), (lambda dy: (ops.negative(backend, dy),)) if requires_grad[0] else None


def matmul(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.matmul(backend, a, b)
    if not any(requires_grad):
        return y, None

    def backward(dy: Array) -> tuple[Array | None, Array | None]:
        # A vector is a matrix with one row (left) or one column (right) that the result drops.
        rows = a if a.ndim > 1 else ops.reshape(backend, a, (1, a.shape[0]))
        columns = b if b.ndim > 1 else ops.reshape(backend, b, (b.shape[0], 1))
        shape = dy.shape
        if a.ndim == 1:
            shape = (*shape[:-1], 1, shape[-1]) if b.ndim > 1 else (*shape, 1)
        if b.ndim == 1:
            shape = (*shape, 1)
        dy = ops.reshape(backend, dy, shape)
        da = ops.matmul(backend, dy, ops.swap_last_axes(backend, columns)) if requires_grad[0] else None
        db = ops.matmul(backend, ops.swap_last_axes(backend, rows), dy) if requires_grad[1] else None
        return (
            None if da is None else ops.reshape(backend, unbroadcast(backend, da, rows.shape), a.shape),
            None if db is None else ops.reshape(backend, unbroadcast(backend, db, columns.shape), b.shape),
        )

    return y, backward


def exp(backend: Backend, a: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.exp(backend, a)
    return y, (lambda dy: (ops.multiply(backend, dy, y),)) if requires_grad[0] else None


def log(backend: Backend, a: Array, requires_grad: RequiresGrad) -> Result:
    return ops.log(backend, a), (lambda dy: (ops.divide(backend, dy, a),)) if requires_grad[0] else None


def sqrt(backend: Backend, a: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.sqrt(backend, a)
    return y, (lambda dy: (ops.sqrt_gradient(backend, dy, y),)) if requires_grad[0] else None


def abs(backend: Backend, a: Array, requires_grad: RequiresGrad) -> Result:
    return ops.absolute(backend, a), (lambda dy: (ops.absolute_gradient(backend, dy, a),)) if requires_grad[0] else None


def clip(backend: Backend, a: Array, requires_grad: RequiresGrad, low: float | None, high: float | None) -> Result:
    y = ops.clip(backend, a, low, high)
    return y, (lambda dy: (ops.clip_gradient(backend, dy, a, low, high),)) if requires_grad[0] else None


def where(backend: Backend, condition: Array, a: Array, b: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.select(backend, condition, a, b)
    if not any(requires_grad):
        return y, None
    a_shape, b_shape = a.shape, b.shape

    def backward(dy: Array) -> tuple[Array | None, ...]:
        zero = ops.zeros(backend, (), dy.dtype)
        da = unbroadcast(backend, ops.select(backend, condition, dy, zero), a_shape) if requires_grad[1] else None
        db = unbroadcast(backend, ops.select(backend, condition, zero, dy), b_shape) if requires_grad[2] else None
        return None, da, db

    return y, backward


COMPARISONS = {
    "==": ops.equal, "!=": ops.not_equal, "<": ops.less, "<=": ops.less_equal, ">": ops.greater,
    ">=": ops.greater_equal,
}  # fmt: skip


def comparison(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad, compared: str) -> Result:
    return COMPARISONS[compared](backend, a, b), None


# --- shape -------------------------------------------------------------------------------------------------------


def reshape(backend: Backend, a: Array, requires_grad: RequiresGrad, shape: tuple[int, ...]) -> Result:
    before = a.shape
    return ops.reshape(backend, a, shape), (lambda dy: (ops.reshape(backend, dy, before),)) if requires_grad[
        0
    ] else None


def transpose(backend: Backend, a: Array, requires_grad: RequiresGrad, axes: tuple[int, ...]) -> Result:
    inverse = sorted(range(len(axes)), key=axes.__getitem__)
    return ops.transpose(backend, a, axes), (lambda dy: (ops.transpose(backend, dy, inverse),)) if requires_grad[
        0
    ] else None


def broadcast(backend: Backend, a: Array, requires_grad: RequiresGrad, shape: tuple[int, ...]) -> Result:
    before = a.shape
    y = ops.c_ordered_copy(backend, ops.broadcast(backend, a, shape))
    return y, (lambda dy: (unbroadcast(backend, dy, before),)) if requires_grad[0] else None


def index(backend: Backend, a: Array, requires_grad: RequiresGrad, key: Any, repeats: bool) -> Result:
    y = ops.index(backend, a, key)
    if not requires_grad[0]:
        return y, None
    shape = a.shape
    if repeats:  # an index tensor may be changed in place before backward
        key = ops.keep_key(backend, key)
    return y, lambda dy: (ops.index_gradient(backend, dy, shape, key, repeats),)


def clone(backend: Backend, a: Array, requires_grad: RequiresGrad) -> Result:
    return ops.c_ordered_copy(backend, a), (lambda dy: (dy,)) if requires_grad[0] else None


def to_dtype(backend: Backend, a: Array, requires_grad: RequiresGrad, dtype: Any) -> Result:
    before = a.dtype
    y = ops.cast(backend, a, dtype)
    return y, (lambda dy: (ops.cast(backend, dy, before),)) if requires_grad[0] and dtype.kind == "f" else None


def to_device(backend: Backend, a: Array, requires_grad: RequiresGrad, target: Backend) -> Result:
    y = target.asarray(backend.to_host(a))
    return y, (lambda dy: (backend.asarray(target.to_host(dy)),)) if requires_grad[0] else None


def concatenation(backend: Backend, *arrays: Array, requires_grad: RequiresGrad, axis: int) -> Result:
    y = ops.concatenate(backend, arrays, axis)
    if not any(requires_grad):
        return y, None
    lengths = [a.shape[axis] for a in arrays]
    return y, lambda dy: [
        part if need else None for part, need in zip(ops.split(backend, dy, lengths, axis), requires_grad, strict=True)
    ]


# --- reductions --------------------------------------------------------------------------------------------------


def sum(backend: Backend, a: Array, requires_grad: RequiresGrad, axes: tuple[int, ...], keepdims: bool) -> Result:
    shape, y = a.shape, ops.sum(backend, a, axes, keepdims)
    return y, (lambda dy: (ops.sum_gradient(backend, dy, shape, axes),)) if requires_grad[0] else None


def mean(backend: Backend, a: Array, requires_grad: RequiresGrad, axes: tuple[int, ...], keepdims: bool) -> Result:
    shape, y = a.shape, ops.mean(backend, a, axes, keepdims)
    return y, (lambda dy: (ops.mean_gradient(backend, dy, shape, axes),)) if requires_grad[0] else None


def maximum(backend: Backend, a: Array, requires_grad: RequiresGrad, axes: tuple[int, ...], keepdims: bool) -> Result:
    return _extremum(backend, a, ops.max(backend, a, axes, keepdims), requires_grad, axes)


def minimum(backend: Backend, a: Array, requires_grad: RequiresGrad, axes: tuple[int, ...], keepdims: bool) -> Result:
    return _extremum(backend, a, ops.min(backend, a, axes, keepdims), requires_grad, axes)


def argmax(backend: Backend, a: Array, requires_grad: RequiresGrad, axis: int | None) -> Result:
    return ops.argmax(backend, a, axis), None


def order(backend: Backend, a: Array, requires_grad: RequiresGrad, axis: int, descending: bool) -> Result:
    return ops.order(backend, a, axis, descending), None


def take_along(backend: Backend, a: Array, indices: Array, requires_grad: RequiresGrad, axis: int) -> Result:
    """Elements of ``a`` along an axis; no index twice."""
    key = ops.key_along(backend, indices, axis)
    y, shape = ops.index(backend, a, key), a.shape
    return y, (lambda dy: (ops.index_gradient(backend, dy, shape, key, False), None)) if requires_grad[0] else None


def _extremum(backend: Backend, a: Array, y: Array, requires_grad: RequiresGrad, axes: tuple[int, ...]) -> Result:
    if not requires_grad[0]:
        return y, None
    chosen = ops.is_extremum(backend, a, y, axes)
    return y, lambda dy: (ops.extremum_gradient(backend, dy, chosen, axes),)
