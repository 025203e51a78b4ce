"""Element-wise activations with PyTorch's definitions, and the softmax along an axis. Each takes and returns a floating
tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gpucnn.autograd import Tensor, apply, no_grad
from gpucnn.autograd.arguments import either_name
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, ops
from gpucnn.checks import check_choice, check_number, check_positive, is_integer, shown
from gpucnn.errors import ParameterError, ShapeError, kind_of
from gpucnn.functional.arguments import check_float, check_tensor


def _relu(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.relu(backend, x)
    return y, (lambda dy: (ops.relu_gradient(backend, dy, y),)) if requires_grad[0] else None


def _sigmoid(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.sigmoid(backend, x)
    return y, (lambda dy: (ops.sigmoid_gradient(backend, dy, y),)) if requires_grad[0] else None


def _tanh(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.tanh(backend, x)
    return y, (lambda dy: (ops.tanh_gradient(backend, dy, y),)) if requires_grad[0] else None


def _softmax(backend: Backend, x: Array, requires_grad: RequiresGrad, axis: int) -> Result:
    y = ops.softmax(backend, x, axis)
    return y, (lambda dy: (ops.softmax_gradient(backend, dy, y, axis),)) if requires_grad[0] else None


def _log_softmax(backend: Backend, x: Array, requires_grad: RequiresGrad, axis: int) -> Result:
    y = ops.log_softmax(backend, x, axis)
    return y, (lambda dy: (ops.log_softmax_gradient(backend, dy, y, axis),)) if requires_grad[0] else None


def relu(input: Tensor) -> Tensor:
    """Return max(x, 0); the gradient at 0 is 0. Source: Nair & Hinton 2010.

    >>> import gpucnn
    >>> relu(gpucnn.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    check_float(input, "relu")
    return apply(_relu, input)


def sigmoid(input: Tensor) -> Tensor:
    """Return 1 / (1 + e^-x), without overflow for any x.

    >>> import gpucnn
    >>> sigmoid(gpucnn.tensor([0.0])).tolist()
    [0.5]
    """
    check_float(input, "sigmoid")
    return apply(_sigmoid, input)


def tanh(input: Tensor) -> Tensor:
    """Return the hyperbolic tangent.

    >>> import gpucnn
    >>> tanh(gpucnn.tensor([0.0])).tolist()
    [0.0]
    """
    check_float(input, "tanh")
    return apply(_tanh, input)


def softmax(input: Tensor, axis: int = -1, *, dim: int | None = None, dtype: Any = None) -> Tensor:
    """Return e^x / sum(e^x) along ``axis`` (or ``dim``; by default the last), computed in ``dtype``.

    ShapeError for an axis that is not there.

    >>> import gpucnn
    >>> softmax(gpucnn.tensor([1.0, 1.0])).tolist()
    [0.5, 0.5]
    """
    return _along(_softmax, input, axis, dim, dtype, "softmax")


def log_softmax(input: Tensor, axis: int = -1, *, dim: int | None = None, dtype: Any = None) -> Tensor:
    """Return log(softmax(x)) along ``axis`` (or ``dim``), accurate where the softmax is nearly 0.

    >>> import gpucnn
    >>> log_softmax(gpucnn.tensor([0.0, 1000.0])).tolist()
    [-1000.0, 0.0]
    """
    return _along(_log_softmax, input, axis, dim, dtype, "log_softmax")


def _along(operation: Any, x: Tensor, axis: int, dim: int | None, dtype: Any, where: str) -> Tensor:
    """Run a softmax along an axis; a number has one axis, as in PyTorch."""
    if dtype is not None:
        check_tensor(x, where, "input")
        x = x.to(dtype)
    check_float(x, where)
    asked = axis if dim is None else either_name(None if axis == -1 else axis, dim, where)
    axes = max(x.ndim, 1)
    if not is_integer(asked) or not -axes <= asked < axes:
        raise ShapeError.expected(where, "axis", f"an axis of shape {x.shape}", shown(asked))
    if not x.size:
        return x.clone()
    if not x.ndim:
        return apply(operation, x.reshape(1), axis=0).reshape(())
    return apply(operation, x, axis=int(asked) % axes)


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _leaky_relu(backend: Backend, x: Array, requires_grad: RequiresGrad, slope: float) -> Result:
    y, slopes = ops.leaky_relu(backend, x, slope)
    return y, (lambda dy: (ops.multiply(backend, dy, slopes),)) if requires_grad[0] else None


def _elu(backend: Backend, x: Array, requires_grad: RequiresGrad, alpha: float, scale: float) -> Result:
    y, below = ops.elu(backend, x, alpha, scale)
    return y, (lambda dy: (ops.elu_gradient(backend, dy, x, below, alpha, scale),)) if requires_grad[0] else None


def _softplus(backend: Backend, x: Array, requires_grad: RequiresGrad, beta: float, threshold: float) -> Result:
    y, slope = ops.softplus(backend, x, beta, threshold, requires_grad[0])
    return y, (lambda dy: (ops.multiply(backend, dy, slope),)) if requires_grad[0] else None


def _hardsigmoid(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    y = ops.hardsigmoid(backend, x)
    return y, (lambda dy: (ops.hardsigmoid_gradient(backend, dy, x),)) if requires_grad[0] else None


def _hardtanh(backend: Backend, x: Array, requires_grad: RequiresGrad, low: float, high: float) -> Result:
    y = ops.clip(backend, x, low, high)
    return y, (lambda dy: (ops.hardtanh_gradient(backend, dy, y, low, high),)) if requires_grad[0] else None


def _gelu(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    y, cumulative = ops.gelu(backend, x)
    return y, (lambda dy: (ops.gelu_gradient(backend, dy, x, cumulative),)) if requires_grad[0] else None


def _gelu_tanh(backend: Backend, x: Array, requires_grad: RequiresGrad) -> Result:
    y, t = ops.gelu_tanh(backend, x)
    return y, (lambda dy: (ops.gelu_tanh_gradient(backend, dy, x, t),)) if requires_grad[0] else None


def leaky_relu(input: Tensor, negative_slope: float = 0.01) -> Tensor:
    """Return x where x > 0, else negative_slope x. Source: Maas, Hannun & Ng 2013.

    >>> import gpucnn
    >>> leaky_relu(gpucnn.tensor([-2.0, 3.0]), 0.5).tolist()
    [-1.0, 3.0]
    """
    check_float(input, "leaky_relu")
    check_number(negative_slope, "leaky_relu", "negative_slope")
    return apply(_leaky_relu, input, slope=float(negative_slope))


def elu(input: Tensor, alpha: float = 1.0) -> Tensor:
    """Return x where x > 0, else alpha (e^x - 1). Source: Clevert, Unterthiner & Hochreiter 2016.

    >>> import gpucnn
    >>> elu(gpucnn.tensor([0.0, 3.0])).tolist()
    [0.0, 3.0]
    """
    check_float(input, "elu")
    check_number(alpha, "elu", "alpha")
    return apply(_elu, input, alpha=float(alpha), scale=1.0)


def selu(input: Tensor) -> Tensor:
    """Return 1.0507... elu(x, 1.673...), which preserves mean 0 and variance 1. Source: Klambauer et al. 2017.

    >>> import gpucnn
    >>> round(selu(gpucnn.tensor([1.0])).item(), 4)
    1.0507
    """
    check_float(input, "selu")
    return apply(_elu, input, alpha=SELU_ALPHA, scale=SELU_SCALE)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return log(1 + e^(beta x)) / beta, or x where beta x > threshold. Source: Dugas et al. 2001.

    >>> import gpucnn
    >>> round(softplus(gpucnn.tensor([0.0])).item(), 4)
    0.6931
    """
    check_float(input, "softplus")
    if not isinstance(threshold, float) or threshold != math.inf:
        check_number(threshold, "softplus", "threshold")
    check_number(beta, "softplus", "beta")
    check_positive(beta, "softplus", "beta")
    return apply(_softplus, input, beta=float(beta), threshold=float(threshold))


def hardsigmoid(input: Tensor) -> Tensor:
    """Return x / 6 + 1/2, clipped to [0, 1].

    >>> import gpucnn
    >>> hardsigmoid(gpucnn.tensor([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    check_float(input, "hardsigmoid")
    return apply(_hardsigmoid, input)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Return x, clipped to [min_val, max_val]; the gradient at both ends is 0.

    >>> import gpucnn
    >>> hardtanh(gpucnn.tensor([-4.0, 0.5, 4.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    check_float(input, "hardtanh")
    low = check_number(min_val, "hardtanh", "min_val")
    high = check_number(max_val, "hardtanh", "max_val", min_val)
    return apply(_hardtanh, input, low=float(low), high=float(high))


def relu6(input: Tensor) -> Tensor:
    """Return min(max(x, 0), 6); the gradient at 0 and 6 is 0. Source: Howard et al. 2017, "MobileNets".

    >>> import gpucnn
    >>> relu6(gpucnn.tensor([-1.0, 2.0, 8.0])).tolist()
    [0.0, 2.0, 6.0]
    """
    check_float(input, "relu6")
    return apply(_hardtanh, input, low=0.0, high=6.0)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """Return x Phi(x), Phi being the normal cumulative distribution function. approximate="tanh" approximates Phi.

    Source: Hendrycks & Gimpel 2016.

    >>> import gpucnn
    >>> round(gelu(gpucnn.tensor([1.0])).item(), 4)
    0.8413
    """
    check_float(input, "gelu")
    check_choice(approximate, "gelu", "approximate", ("none", "tanh"))
    return apply(_gelu if approximate == "none" else _gelu_tanh, input)


def silu(input: Tensor) -> Tensor:
    """Return x sigmoid(x), also called swish. Source: Elfwing, Uchibe & Doya 2018.

    >>> import gpucnn
    >>> silu(gpucnn.tensor([0.0])).tolist()
    [0.0]
    """
    check_float(input, "silu")
    return input * sigmoid(input)


def by_output(input: Tensor, function: Callable[[Tensor], Tensor], derivative: Callable[[Tensor], Tensor]) -> Tensor:
    """Return y = function(x), element by element, with the gradient dL/dy derivative(y): a function of the *output*.

    Both take and return a tensor. For an activation of your own whose derivative is known in terms of y.

    >>> import gpucnn
    >>> x = gpucnn.tensor([0.0], requires_grad=True)
    >>> by_output(x, lambda x: 1 / (1 + (-x).exp()), lambda y: y * (1 - y)).backward()
    >>> x.grad.tolist()
    [0.25]
    """
    check_float(input, "by_output")
    for argument, value in (("function", function), ("derivative", derivative)):
        if not callable(value):
            raise ParameterError.expected("by_output", argument, "a function of a tensor", shown(value))
    return apply(_by_output, input, function=function, derivative=derivative, like=input)


def _by_output(
    backend: Backend,
    x: Array,
    requires_grad: RequiresGrad,
    function: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    like: Tensor,
) -> Result:
    with no_grad():
        y = function(like.detach())
    if not isinstance(y, Tensor) or y.shape != like.shape:
        got = f"shape {y.shape}" if isinstance(y, Tensor) else kind_of(y)
        raise ShapeError.expected("by_output", "function", f"a tensor of shape {like.shape} as its result", got)

    def backward(dy: Array) -> tuple[Array]:
        with no_grad():
            return (ops.multiply(backend, dy, derivative(y.detach()).array),)

    return y.array, backward if requires_grad[0] else None


def affine(input: Tensor, slope: float = 1.0, intercept: float = 0.0) -> Tensor:
    """Return slope x + intercept.

    >>> import gpucnn
    >>> affine(gpucnn.tensor([2.0]), 3, 1).tolist()
    [7.0]
    """
    check_float(input, "affine")
    check_number(slope, "affine", "slope")
    check_number(intercept, "affine", "intercept")
    return input * float(slope) + float(intercept)


def exponential(input: Tensor) -> Tensor:
    """Return e^x.

    >>> import gpucnn
    >>> exponential(gpucnn.tensor([0.0])).tolist()
    [1.0]
    """
    check_float(input, "exponential")
    return input.exp()
