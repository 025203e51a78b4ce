"""Normalisation to mean 0 and variance 1 over some axes, followed by a learnt scale and shift."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, ops
from gpucnn.backend.precision import is_half
from gpucnn.checks import check_flag, check_number, is_count, shown
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.arguments import check_float, check_matches, check_optional

Axes = tuple[int, ...]


def standardise(backend: Backend, x: Array, needs: Needs, axes: Axes, eps: float) -> Result:
    """On arrays: (x - mean) / sqrt(variance + eps) over ``axes``. Keeps the result and the factor."""
    if not x.size:
        return x, (lambda dy: (dy,)) if needs[0] else None
    y, factor = ops.standardise(backend, x, axes, eps)
    return y, (lambda dy: (ops.standardise_gradient(backend, dy, y, factor, axes),)) if needs[0] else None


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
    shape = (1, C, *(1,) * (input.ndim - 2))
    if running_mean is None or running_var is None or training:
        axes = (0, *range(2, input.ndim))
        count = math.prod(input.shape[i] for i in axes)
        if training and count == 1:
            raise ShapeError.expected(
                "batch_norm", "input", "more than one value for each channel in training", f"shape {input.shape}"
            )
        if training and count and running_mean is not None and running_var is not None:
            _update_running(running_mean, running_var, input, axes, count, momentum)
        y = apply(standardise, input, axes=axes, eps=eps)
    else:
        centred = input.to(running_mean.dtype) - running_mean.reshape(*shape)
        y = (centred / (running_var + eps).sqrt().reshape(*shape)).to(input.dtype)
    return _scale_and_shift(y, weight, bias, shape)


def _update_running(mean: Tensor, var: Tensor, x: Tensor, axes: Axes, count: int, momentum: float) -> None:
    """Update the running statistics from the batch; the variance is unbiased, as in PyTorch."""
    ops.update_running_statistics(x.backend, mean.array, var.array, x.array, axes, count, momentum)
    mean.note_change()
    var.note_change()


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
    y = apply(standardise, input, axes=tuple(range(input.ndim - len(shape), input.ndim)), eps=eps)
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
    y = apply(standardise, grouped, axes=(2,), eps=eps).reshape(*input.shape)
    return _scale_and_shift(y, weight, bias, (1, C, *(1,) * (input.ndim - 2)))


def _scale_and_shift(y: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    if weight is not None:
        y = y * weight.reshape(*shape)
    return y if bias is None else y + bias.reshape(*shape)
