"""Losses: how wrong a batch of answers is. Gradients are those of the reduced value, with no hidden division."""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend
from gpucnn.backend.precision import is_half
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import check_float, check_matches, check_tensor
from gpucnn.functional.class_loss import label_error, optioned_cross_entropy, signed_labels
from gpucnn.functional.reduction import check_reduction, divisor_of, reduce_losses


def class_entropy(backend: Backend, logits: Array, target: Array, needs: Needs, reduction: str) -> Result:
    """Array level, integer targets. Keeps softmax - one_hot, which is the gradient of each loss."""
    losses, gradient = backend.cross_entropy(logits, target, needs[0])
    y, _ = reduce_losses(backend, losses, reduction)
    if not needs[0]:
        return y, None
    if reduction == "none":
        return y, lambda dy: (gradient * dy[:, None], None)
    divisor = divisor_of(losses, reduction)
    return y, lambda dy: (backend.scale(gradient, dy, divisor), None)


def distribution_entropy(backend: Backend, logits: Array, target: Array, needs: Needs, reduction: str) -> Result:
    """Array level, a distribution over the classes as target."""
    xp = backend.xp
    shifted = logits - logits.max(1, keepdims=True)
    log_softmax = shifted - xp.log(xp.exp(shifted).sum(1, keepdims=True))
    y, spread = reduce_losses(backend, -(target * log_softmax).sum(1), reduction)
    if not any(needs):
        return y, None

    def backward(dy: Array) -> tuple[Array | None, Array | None]:
        each = spread(dy)[:, None]
        mass = target.sum(1, keepdims=True)
        return (
            (xp.exp(log_softmax) * mass - target) * each if needs[0] else None,
            -log_softmax * each if needs[1] else None,
        )

    return y, backward


def squared_error(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str) -> Result:
    difference = x - target
    y, spread = reduce_losses(backend, difference * difference, reduction)
    if not any(needs):
        return y, None

    def backward(dy: Array) -> tuple[Array | None, Array | None]:
        dx = 2 * difference * spread(dy)
        return (dx if needs[0] else None, -dx if needs[1] else None)

    return y, backward


def cross_entropy(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return -log softmax(input)[target], over a batch of logits.

    input: (N, C) floating logits; target: (N,) integers from 0 to C - 1, or (N, C) weights of the classes (one-hot, say)
    of the input's dtype. weight: (C,) of the classes; labels equal to ignore_index do not count; label_smoothing gives
    that part of each target to all classes alike (Szegedy et al. 2016).
    Output: a scalar, or (N,) with reduction="none", float32 for float16 logits. The mean of an empty batch is NaN.
    Raises ShapeError, DTypeError, ParameterError. A label out of range is a ParameterError on the CPU. A GPU cannot raise
    without waiting: there the loss is NaN, in float32 or with options, and in float64 without any, unnoticed, that of
    another class. The trainer's data sets are checked when they are loaded; check labels of your own before the loop.
    Source: Goodfellow, Bengio & Courville 2016, section 6.2.2.

    >>> import gpucnn
    >>> cross_entropy(gpucnn.tensor([[0.0, 0.0]]), gpucnn.tensor([1])).item()
    0.6931471824645996
    """
    check_reduction(reduction, "cross_entropy")
    check_float(input, "cross_entropy")
    check_tensor(target, "cross_entropy", "target")
    if is_half(input):
        input, target = input.to("float32"), target.to("float32") if is_half(target) else target
    if input.ndim != 2 or input.shape[1] == 0:
        raise ShapeError.expected(
            "cross_entropy", "input", "(N, C) logits of at least one class", f"shape {input.shape}"
        )
    optioned = weight is not None or ignore_index is not None or label_smoothing != 0
    if target.dtype.kind in "iu":
        if target.shape != input.shape[:1]:
            raise ShapeError.expected(
                "cross_entropy", "target", f"shape {input.shape[:1]} for input {input.shape}", target.shape
            )
        target = signed_labels(target)
        try:
            if optioned:
                return optioned_cross_entropy(input, target, reduction, weight, ignore_index, label_smoothing)
            return apply(class_entropy, input, target, reduction=reduction)
        except IndexError:
            raise label_error("cross_entropy", input) from None
    if target.shape != input.shape:
        raise ShapeError.expected(
            "cross_entropy", "target", f"({input.shape[0]},) integers or {input.shape} weights", target.shape
        )
    check_matches(input, target, "cross_entropy", "target")
    if optioned:
        return optioned_cross_entropy(input, target, reduction, weight, ignore_index, label_smoothing)
    return apply(distribution_entropy, input, target, reduction=reduction)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return (input - target)^2, element by element, reduced. Both of one shape and floating dtype.

    >>> import gpucnn
    >>> mse_loss(gpucnn.tensor([1.0, 3.0]), gpucnn.tensor([1.0, 1.0])).item()
    2.0
    """
    check_reduction(reduction, "mse_loss")
    check_float(input, "mse_loss")
    check_tensor(target, "mse_loss", "target")
    check_matches(input, target, "mse_loss", "target")
    if input.shape != target.shape:
        raise ShapeError.expected("mse_loss", "target", f"the input's shape {input.shape}", target.shape)
    return apply(squared_error, input, target, reduction=reduction)
