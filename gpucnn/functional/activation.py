"""Activations, element by element, and the softmax along an axis. Each takes and returns a floating tensor."""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend
from gpucnn.checks import is_integer, shown
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import check_float


def rectify(backend: Backend, x: Array, needs: Needs) -> Result:
    y = backend.relu(x)
    return y, (lambda dy: (backend.relu_gradient(dy, y),)) if needs[0] else None


def logistic(backend: Backend, x: Array, needs: Needs) -> Result:
    """Computed from e^-|x|, which cannot overflow."""
    xp = backend.xp
    small = xp.exp(-abs(x))
    y = xp.where(x >= 0, 1, small) / (1 + small)
    return y, (lambda dy: (dy * y * (1 - y),)) if needs[0] else None


def hyperbolic_tangent(backend: Backend, x: Array, needs: Needs) -> Result:
    y = backend.xp.tanh(x)
    return y, (lambda dy: (dy * (1 - y * y),)) if needs[0] else None


def normalised_exponentials(backend: Backend, x: Array, needs: Needs, axis: int) -> Result:
    y = backend.xp.exp(x - x.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y, (lambda dy: (y * (dy - (dy * y).sum(axis, keepdims=True)),)) if needs[0] else None


def log_normalised_exponentials(backend: Backend, x: Array, needs: Needs, axis: int) -> Result:
    xp = backend.xp
    shifted = x - x.max(axis, keepdims=True)
    y = shifted - xp.log(xp.exp(shifted).sum(axis, keepdims=True))
    return y, (lambda dy: (dy - xp.exp(y) * dy.sum(axis, keepdims=True),)) if needs[0] else None


def relu(input: Tensor) -> Tensor:
    """Return max(x, 0); the gradient at 0 is 0. Source: Nair & Hinton 2010.

    >>> import gpucnn
    >>> relu(gpucnn.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    check_float(input, "relu")
    return apply(rectify, input)


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x), without overflow for any x.

    >>> import gpucnn
    >>> sigmoid(gpucnn.tensor([0.0])).tolist()
    [0.5]
    """
    check_float(input, "sigmoid")
    return apply(logistic, input)


def tanh(input: Tensor) -> Tensor:
    """Return the hyperbolic tangent.

    >>> import gpucnn
    >>> tanh(gpucnn.tensor([0.0])).tolist()
    [0.0]
    """
    check_float(input, "tanh")
    return apply(hyperbolic_tangent, input)


def softmax(input: Tensor, axis: int = -1) -> Tensor:
    """Return e^x / sum(e^x) along ``axis``; ShapeError for an axis that is not there or is empty.

    >>> import gpucnn
    >>> softmax(gpucnn.tensor([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    return apply(normalised_exponentials, input, axis=_softmax_axis(input, axis, "softmax"))


def log_softmax(input: Tensor, axis: int = -1) -> Tensor:
    """Return log(softmax(x)) along ``axis``, accurate where the softmax is nearly 0.

    >>> import gpucnn
    >>> log_softmax(gpucnn.tensor([0.0, 1000.0])).tolist()
    [-1000.0, 0.0]
    """
    return apply(log_normalised_exponentials, input, axis=_softmax_axis(input, axis, "log_softmax"))


def _softmax_axis(x: Tensor, axis: int, where: str) -> int:
    check_float(x, where)
    if not is_integer(axis) or not -x.ndim <= axis < x.ndim or x.shape[axis] == 0:
        raise ShapeError.expected(where, "axis", f"a non-empty axis of shape {x.shape}", shown(axis))
    return int(axis) % x.ndim
