"""Clipping gradients in place, between ``backward`` and ``step``, without synchronising the device."""

from __future__ import annotations

from collections.abc import Iterable

from gpucnn.autograd import Parameter, Tensor, no_grad
from gpucnn.backend import ops
from gpucnn.errors import ParameterError
from gpucnn.optim.optimizer import check_number


def _gradients(parameters: Iterable[Parameter] | Parameter, where: str) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not all(isinstance(parameter, Tensor) for parameter in listed):
        raise ParameterError.expected(where, "parameters", "Parameters", type(listed[0]).__name__)
    return [parameter.grad for parameter in listed if parameter.grad is not None]


def clip_grad_norm_(
    parameters: Iterable[Parameter] | Parameter, max_norm: float, norm_type: float = 2.0, *, scale: Tensor | None = None
) -> Tensor:
    """Scale all gradients by one factor so that their total norm is at most max_norm; return the norm before scaling.

    norm_type: 2 (Euclidean), any positive p, or infinity. The norm is 0-d float32 (float64 for float64 gradients). It
    overflows only if its own value is too large, never for float16 gradients. max_norm=infinity changes no gradient.
    scale: the 0-d float32 factor of a scaled loss, which the gradients contain; norm and max_norm are without it.
    Source: Pascanu, Mikolov & Bengio 2013.

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([0.0, 0.0]))
    >>> (p * gpucnn.tensor([3.0, 4.0])).sum().backward()
    >>> clip_grad_norm_([p], 1.0).item(), [round(g, 3) for g in p.grad.tolist()]
    (5.0, [0.6, 0.8])
    """
    if max_norm != float("inf"):
        check_number(max_norm, "clip_grad_norm_", "max_norm", 0, None)
    if isinstance(norm_type, bool) or not isinstance(norm_type, (int, float)) or not norm_type > 0:
        raise ParameterError.expected("clip_grad_norm_", "norm_type", "a positive number", repr(norm_type))
    gradients = _gradients(parameters, "clip_grad_norm_")
    if not gradients:
        raise ParameterError.expected("clip_grad_norm_", "parameters", "at least one with a gradient", "none")
    with no_grad():
        wide = [gradient.to("float32") if str(gradient.dtype) == "float16" else gradient for gradient in gradients]
        norm = _norm([gradient for gradient in wide if gradient.size] or [wide[0].sum()], float(norm_type))
        norm = norm if scale is None else norm / scale
        if max_norm == float("inf"):
            return norm
        factor = max_norm / (norm + 1e-6)
        factor = factor.like(ops.minimum(factor.backend, factor.array, factor.backend.asarray(1, factor.dtype)))
        for gradient, wider in zip(gradients, wide, strict=True):
            gradient.copy_((wider * factor).to(gradient.dtype))
    return norm


def _norm(gradients: list[Tensor], norm_type: float) -> Tensor:
    """Return the total norm of gradients of one dtype. They are divided by the largest element first, against overflow."""
    first = gradients[0]
    largest = first.like(ops.largest_magnitude(first.backend, [gradient.array for gradient in gradients]))
    if norm_type == float("inf"):
        return largest
    scale = first.like(ops.usable_scale(first.backend, largest.array))
    total = sum((abs(gradient / scale) ** norm_type).sum() for gradient in gradients)
    return largest * total ** (1 / norm_type)


def clip_grad_value_(parameters: Iterable[Parameter] | Parameter, clip_value: float) -> None:
    """Clip every element of the gradients to [-clip_value, clip_value].

    >>> import gpucnn
    >>> from gpucnn import nn
    >>> p = nn.Parameter(gpucnn.tensor([0.0, 0.0]))
    >>> (p * gpucnn.tensor([3.0, -0.5])).sum().backward()
    >>> clip_grad_value_([p], 1.0)
    >>> p.grad.tolist()
    [1.0, -0.5]
    """
    check_number(clip_value, "clip_grad_value_", "clip_value", 0, None)
    for gradient in _gradients(parameters, "clip_grad_value_"):
        ops.fill(gradient.backend, gradient.array, ops.clip(gradient.backend, gradient.array, -clip_value, clip_value))
        gradient.note_change()
