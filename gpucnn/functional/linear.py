"""The fully connected layer."""

from __future__ import annotations

from collections.abc import Callable

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, ops
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import check_float, check_matches, check_tensor


def _linear(backend: Backend, x: Array, w: Array, b: Array | None, requires_grad: RequiresGrad) -> Result:
    """On arrays: y = x w^T + b for (M, I) rows."""
    y = ops.linear(backend, x, w, b)
    if not any(requires_grad):
        return y, None
    kept_x = x if requires_grad[1] else None
    kept_w = w if requires_grad[0] else None

    def backward(dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        dx = ops.matmul(backend, dy, kept_w) if requires_grad[0] else None
        if requires_grad[1] and requires_grad[2]:
            return (dx, *ops.linear_parameter_gradients(backend, kept_x, dy))
        return (
            dx,
            ops.matmul(backend, ops.transpose(backend, dy, (1, 0)), kept_x) if requires_grad[1] else None,
            ops.sum(backend, dy, (0,)) if requires_grad[2] else None,
        )

    return y, backward


def _linear_relu(backend: Backend, x: Array, w: Array, b: Array | None, requires_grad: RequiresGrad) -> Result:
    """On arrays: the positive part of ``_linear``."""
    y, linear_backward = _linear(backend, x, w, b, requires_grad)
    positive = ops.relu(backend, y)
    if linear_backward is None:
        return positive, None
    return positive, lambda dy: linear_backward(ops.relu_gradient(backend, dy, positive))


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return input @ weight.T + bias: (..., I) -> (..., O).

    weight: (O, I); bias: (O,); all of one floating dtype. Raises ShapeError, DTypeError or MixedDeviceError.

    >>> import gpucnn
    >>> linear(gpucnn.tensor([[1.0, 2.0]]), gpucnn.tensor([[3.0, 4.0]]), gpucnn.tensor([0.5])).tolist()
    [[11.5]]
    """
    return _on_rows(_linear, input, weight, bias)


def linear_relu(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return relu(linear(...)) as one operation; arguments and errors as for ``linear``.

    >>> import gpucnn
    >>> linear_relu(gpucnn.tensor([[1.0, 2.0]]), gpucnn.tensor([[3.0, 4.0], [-1.0, 0.0]])).tolist()
    [[11.0, 0.0]]
    """
    return _on_rows(_linear_relu, input, weight, bias)


def _on_rows(operation: Callable[..., Result], input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Check the arguments of ``linear`` and apply the operation to all rows of the last axis."""
    check_float(input, "linear")
    check_tensor(weight, "linear", "weight")
    if weight.ndim != 2:
        raise ShapeError.expected("linear", "weight", "(out_features, in_features)", f"shape {weight.shape}")
    if input.ndim < 1 or input.shape[-1] != weight.shape[1]:
        raise ShapeError.expected(
            "linear",
            "input",
            f"{weight.shape[1]} features in the last axis (weight {weight.shape})",
            f"shape {input.shape}",
            "flatten images first" if input.ndim == 4 else "",
        )
    check_matches(input, weight, "linear", "weight")
    check_matches(input, bias, "linear", "bias")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError.expected("linear", "bias", f"shape {weight.shape[:1]}", bias.shape)
    if input.ndim == 2:
        return apply(operation, input, weight, bias)
    rows = input.reshape(input.size // max(weight.shape[1], 1), weight.shape[1])
    return apply(operation, rows, weight, bias).reshape(*input.shape[:-1], weight.shape[0])
