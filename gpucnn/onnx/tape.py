"""Operations on arrays, with their gradients, that ONNX has and gpucnn's layers do not need.

Their form is described in ``autograd/tape.py``. Rounding, comparisons and integers have no gradient.
"""

from __future__ import annotations

from typing import Any

from gpucnn.autograd import Tensor, apply, operations
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, ops

STEPS = {
    "Floor": ops.floor, "Ceil": ops.ceil, "Round": ops.nearest_even, "Sign": ops.sign, "Not": ops.logical_not,
    "IsNaN": ops.is_nan,
}  # fmt: skip
PAIRS = {
    "And": ops.logical_and, "Or": ops.logical_or, "Xor": ops.logical_xor, "FloorDivide": ops.floor_divide,
    "Remainder": ops.remainder, "FMod": ops.fmod,
}  # fmt: skip


def _step(backend: Backend, x: Array, requires_grad: RequiresGrad, kind: str) -> Result:
    return STEPS[kind](backend, x), None


def _pair(backend: Backend, a: Array, b: Array, requires_grad: RequiresGrad, kind: str) -> Result:
    return PAIRS[kind](backend, a, b), None


def _hardswish(backend: Backend, x: Array, requires_grad: RequiresGrad, factor: float, shift: float) -> Result:
    """For evaluation alone: it has no gradient."""
    return ops.hardswish(backend, x, factor, shift), None


def _hardsigmoid(backend: Backend, x: Array, requires_grad: RequiresGrad, factor: float, shift: float) -> Result:
    """For evaluation alone: it has no gradient."""
    return ops.limited_line(backend, x, factor, shift), None


def _erf(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    return ops.erf(backend, x), (lambda dy: (ops.erf_gradient(backend, dy, x),)) if requires_grad[0] else None


def _sin(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.sin(backend, x)
    return y, (lambda dy: (ops.multiply(backend, dy, ops.cos(backend, x)),)) if requires_grad[0] else None


def step(x: Tensor, kind: str) -> Tensor:
    """Return a function of ``STEPS`` of each element."""
    return apply(_step, x, kind=kind)


def pair(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """Return a function of ``PAIRS`` of two tensors."""
    return apply(_pair, a, b, kind=kind)


def clip(x: Tensor, low: float, high: float) -> Tensor:
    """Return x limited to [low, high].

    >>> import gpucnn
    >>> clip(gpucnn.tensor([-1.0, 7.0]), 0.0, 6.0).tolist()
    [0.0, 6.0]
    """
    return apply(operations.clip, x, low=low, high=high)


def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a where the condition is true, else b.

    >>> import gpucnn
    >>> where(gpucnn.tensor([True, False]), gpucnn.tensor([1.0, 2.0]), gpucnn.tensor(0.0)).tolist()
    [1.0, 0.0]
    """
    return apply(operations.where, condition, a, b)


def broadcast(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return x repeated along new axes and along those of length 1.

    >>> import gpucnn
    >>> broadcast(gpucnn.tensor([[1.0], [2.0]]), (2, 2)).tolist()
    [[1.0, 1.0], [2.0, 2.0]]
    """
    return x if x.shape == shape else apply(operations.broadcast, x, shape=shape)


def hardswish(x: Tensor, factor: float = 1.0, shift: float = 0.0) -> Tensor:
    """Return factor x clip(x + 3, 0, 6) / 6 + shift, without a gradient.

    >>> import gpucnn
    >>> hardswish(gpucnn.tensor([-4.0, 0.0, 3.0])).tolist()
    [-0.0, 0.0, 3.0]
    """
    return apply(_hardswish, x, factor=factor, shift=shift)


def hardsigmoid(x: Tensor, factor: float, shift: float) -> Tensor:
    """Return factor x + shift limited to [0, 1], without a gradient."""
    return apply(_hardsigmoid, x, factor=factor, shift=shift)


def erf(x: Tensor) -> Tensor:
    """Return the error function of x."""
    return apply(_erf, x)


def sin(x: Tensor) -> Tensor:
    """Return the sine of x."""
    return apply(_sin, x)


def constant(values: Any, dtype: str, like: Tensor) -> Tensor:
    """Return numbers of the host as a tensor on the device of ``like``."""
    return like.like(like.backend.asarray(values, dtype))
