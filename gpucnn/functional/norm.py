"""Normalisation to mean 0 and variance 1 over some axes, followed by a learnt scale and shift."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.autograd import Tensor, apply, is_grad_enabled
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, ops
from gpucnn.backend.precision import is_half
from gpucnn.checks import check_flag, check_number, is_count, shown
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.activation import relu as apply_relu
from gpucnn.functional.arguments import check_float, check_matches, check_optional

Axes = tuple[int, ...]


def normalise(backend: Backend, x: Array, requires_grad: RequiresGrad, axes: Axes, eps: float) -> Result:
    """On arrays: (x - mean) / sqrt(variance + eps) over ``axes``. Keeps the result and the factor."""
    if not x.size:
        return x, (lambda dy: (dy,)) if requires_grad[0] else None
    y, factor = ops.normalise(backend, x, axes, eps)
    return y, (lambda dy: (ops.normalise_gradient(backend, dy, y, factor, axes),)) if requires_grad[0] else None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return each channel normalised over the batch (and pixels): (N, C) or (N, C, ...), then weight x + bias, each (C,).

    Training (or a call without running statistics) uses the mean and variance of the batch, and updates the running
    statistics in place with ``momentum``. Otherwise the running statistics are used. They may be float32 for a float16
    input. Raises ShapeError for a single value per channel in training. An empty batch leaves the statistics unchanged.
    Source: Ioffe & Szegedy 2015.

    >>> import gpucnn
    >>> batch_norm(gpucnn.tensor([[1.0], [3.0]]), None, None, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    return batch_norm_fused(input, running_mean, running_var, weight, bias, training, momentum, eps)


def batch_norm_fused(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """Return ``batch_norm`` plus ``residual`` (of the input's shape), with ``relu`` followed by ReLU, in one pass."""
    check_float(input, "batch_norm")
    if input.ndim < 2:
        raise ShapeError.expected("batch_norm", "input", "(N, C) or (N, C, ...)", f"shape {input.shape}")
    C = input.shape[1]
    for name, tensor in (
        ("running_mean", running_mean),
        ("running_var", running_var),
        ("weight", weight),
        ("bias", bias),
    ):
        check_optional(tensor, "batch_norm", name)
        if tensor is not None and tensor.shape != (C,):
            raise ShapeError.expected("batch_norm", name, f"({C},), one for each channel", tensor.shape)
        is_wide = is_half(input) and name.startswith("running") and tensor is not None and tensor.dtype == "float32"
        if not is_wide:
            check_matches(input, tensor, "batch_norm", name)
    check_flag(training, "batch_norm", "training")
    check_number(eps, "batch_norm", "eps", 0)
    check_number(momentum, "batch_norm", "momentum", 0, 1)
    if residual is not None and residual.shape != input.shape:
        raise ShapeError.expected("batch_norm", "residual", f"the input's shape {input.shape}", residual.shape)
    check_matches(input, residual, "batch_norm", "residual")
    if running_mean is None or running_var is None or training:
        count = math.prod(input.shape) // max(C, 1)
        if training and count == 1:
            raise ShapeError.expected(
                "batch_norm", "input", "more than one value for each channel in training", f"shape {input.shape}"
            )
        running = None
        if training and count and running_mean is not None and running_var is not None:
            running = running_mean.array, running_var.array
        y = apply(
            _batch_norm,
            input,
            weight,
            bias,
            residual,
            running=running,
            count=count,
            momentum=momentum,
            eps=eps,
            relu=relu,
        )
        for tensor in (running_mean, running_var):
            if running is not None and tensor is not None:
                tensor.note_change()
        return y
    if not (is_grad_enabled() and (running_mean.requires_grad or running_var.requires_grad)):
        return apply(
            _batch_norm_inference, input, running_mean, running_var, weight, bias, residual, eps=eps, relu=relu
        )
    shape = (1, C, *(1,) * (input.ndim - 2))
    centred = input.to(running_mean.dtype) - running_mean.reshape(*shape)
    y = (centred / (running_var + eps).sqrt().reshape(*shape)).to(input.dtype)
    y = _scale_and_shift(y, weight, bias, shape)
    y = y if residual is None else y + residual
    return apply_relu(y) if relu else y


def _batch_norm(
    backend: Backend, x: Array, weight: Array | None, bias: Array | None, residual: Array | None,
    requires_grad: RequiresGrad, running: tuple[Array, Array] | None, count: int, momentum: float, eps: float, relu: bool,
) -> Result:  # fmt: skip
    """On arrays: by the batch's own statistics, which also update the ``running`` ones. Keeps x, and for ReLU the result."""
    if not x.size:
        return ops.copy(backend, x), (lambda dy: _no_gradients(backend, dy, weight, bias)) if any(
            requires_grad
        ) else None
    y, mean, var, factor = ops.batch_norm(backend, x, weight, bias, residual, eps, relu)
    if running is not None:
        ops.update_running_statistics(backend, *running, mean, var, count, momentum)
    if not any(requires_grad):
        return y, None
    kept = y if relu else None
    return y, lambda dy: ops.batch_norm_gradients(backend, dy, x, kept, weight, mean, factor, requires_grad[3])


def _no_gradients(backend: Backend, dy: Array, weight: Array | None, bias: Array | None) -> tuple[Array | None, ...]:
    """Return the gradients for an empty batch."""
    zeros = [None if one is None else ops.zeros(backend, one.shape, one.dtype) for one in (weight, bias)]
    return dy, *zeros, dy


def _batch_norm_inference(
    backend: Backend, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, requires_grad: RequiresGrad, eps: float, relu: bool,
) -> Result:  # fmt: skip
    """On arrays: by given statistics, which get no gradient. Keeps x, and for ReLU the result."""
    y, factor = ops.batch_norm_inference(backend, x, mean, var, weight, bias, residual, eps, relu)
    if not any(requires_grad):
        return y, None
    kept = y if relu else None

    def backward(dy: Array) -> tuple[Array | None, ...]:
        dx, dweight, dbias, dresidual = ops.batch_norm_gradients(
            backend, dy, x, kept, weight, mean, factor, requires_grad[5], False
        )
        return dx, None, None, dweight, dbias, dresidual

    return y, backward


def layer_norm(
    input: Tensor,
    normalized_shape: int | tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last axes, of ``normalized_shape``. weight and bias have that shape. Source: Ba et al. 2016.

    >>> import gpucnn
    >>> layer_norm(gpucnn.tensor([[1.0, 3.0]]), (2,), eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    check_float(input, "layer_norm")
    shape = axis_lengths(normalized_shape, "layer_norm", "normalized_shape")
    if not shape or input.shape[-len(shape) :] != shape:
        raise ShapeError.expected("layer_norm", "input", f"last axes {shape}", f"shape {input.shape}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_optional(tensor, "layer_norm", name)
        if tensor is not None and tensor.shape != shape:
            raise ShapeError.expected("layer_norm", name, f"shape {shape}", tensor.shape)
        check_matches(input, tensor, "layer_norm", name)
    check_number(eps, "layer_norm", "eps", 0)
    y = apply(normalise, input, axes=tuple(range(input.ndim - len(shape), input.ndim)), eps=eps)
    return _scale_and_shift(y, weight, bias, shape)


def axis_lengths(value: Any, where: str, argument: str) -> tuple[int, ...]:
    """Return one int or several as a tuple; ParameterError for other values."""
    lengths = value if isinstance(value, (tuple, list)) else (value,)
    if not lengths or not all(is_count(n, 1) for n in lengths):
        raise ParameterError.expected(where, argument, "one positive int or more", shown(value))
    return tuple(map(int, lengths))


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise the channels of each image in ``num_groups`` groups: (N, C, ...). weight and bias: (C,).

    Source: Wu & He 2018.

    >>> import gpucnn
    >>> group_norm(gpucnn.tensor([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    check_float(input, "group_norm")
    if input.ndim < 2:
        raise ShapeError.expected("group_norm", "input", "(N, C) or (N, C, ...)", f"shape {input.shape}")
    N, C = input.shape[:2]
    if not is_count(num_groups, 1) or C % num_groups:
        raise ParameterError.expected("group_norm", "num_groups", f"a divisor of {C} channels", repr(num_groups))
    for name, tensor in (("weight", weight), ("bias", bias)):
        check_optional(tensor, "group_norm", name)
        if tensor is not None and tensor.shape != (C,):
            raise ShapeError.expected("group_norm", name, f"shape ({C},)", tensor.shape)
        check_matches(input, tensor, "group_norm", name)
    check_number(eps, "group_norm", "eps", 0)
    grouped = input.reshape(N, num_groups, input.size // max(N * num_groups, 1))
    y = apply(normalise, grouped, axes=(2,), eps=eps).reshape(*input.shape)
    return _scale_and_shift(y, weight, bias, (1, C, *(1,) * (input.ndim - 2)))


def _scale_and_shift(y: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if weight is not None:
        y = y * weight.reshape(*shape)
    return y if bias is None else y + bias.reshape(*shape)
