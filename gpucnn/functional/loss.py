"""Losses of a batch of outputs. Gradients are those of the reduced value, with no hidden division.

Every cross-entropy is -sum(d log p) over the classes. ``d`` (N, C) is the class distribution of the targets, weighted and
smoothed. The mean divides by the sum of the weights of the labels that are not ignored, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, ops
from gpucnn.backend.precision import is_half
from gpucnn.checks import check_choice, check_number, check_positive, is_count, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.functional.activation import softplus
from gpucnn.functional.arguments import check_float, check_matches, check_tensor
from gpucnn.functional.pixels import by_rows


def reduce_losses(backend: Backend, losses: Array, reduction: str) -> tuple[Array, Callable[[Array], Array]]:
    """Return the reduced losses, and a function that maps their gradient to the gradient of each loss."""
    shape = losses.shape
    if reduction == "none":
        return losses, lambda dy: dy
    divisor = divisor_of(losses, reduction)
    return ops.mean_loss(backend, losses, divisor), lambda dy: ops.spread_loss(backend, dy, divisor, shape)


def divisor_of(losses: Array, reduction: str) -> float:
    """Return the divisor of the sum of the losses; NaN for a mean of no losses, to avoid a warning about 0 / 0."""
    return (losses.size or math.nan) if reduction == "mean" else 1


def check_reduction(reduction: str, where: str) -> None:
    check_choice(reduction, where, "reduction", ("mean", "sum", "none"))


def _weighted_cross_entropy(
    backend: Backend, x: Array, d: Array, counted: Array, requires_grad: RequiresGrad, reduction: str, normalise: bool
) -> Result:
    """On arrays. x: logits (``normalise``) or log probabilities; ``counted``: the divisor of the mean."""
    y, log_p = ops.distribution_loss(backend, x, d, counted, reduction, normalise)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: (
        *ops.distribution_loss_gradients(backend, dy, log_p, d, counted, requires_grad, reduction, normalise),
        None,
    )


def signed_labels(target: Tensor) -> Tensor:
    """Return integer labels with a dtype that can index: uint64 becomes int64, without wrapping to -1."""
    return target.like(ops.as_int64(target.backend, target.array)) if target.dtype == "uint64" else target


def label_distribution(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the class distribution (N, C) of integer labels, and the sum of the weights of labels not ignored."""
    weights = None if weight is None else weight.array
    d, counted = ops.label_distribution(
        input.backend, target.array, weights, input.shape[1], input.dtype, ignore_index, smoothing
    )
    return input.like(d), input.like(counted)


def label_error(where: str, input: Tensor) -> ParameterError:
    """Return the error for an integer label that is not a class."""
    labels = f"labels from 0 to {input.shape[1] - 1} for input {input.shape}"
    return ParameterError.expected(where, "target", labels, "another")


def check_class_options(
    where: str, input: Tensor | None, weight: Tensor | None, ignore_index: int | None, label_smoothing: float = 0.0
) -> None:
    """Check the options of integer and soft targets; without an input, only what does not depend on it."""
    if weight is not None:
        check_tensor(weight, where, "weight")
    if weight is not None and input is not None:
        if weight.shape != (input.shape[1],):
            raise ShapeError.expected(where, "weight", f"({input.shape[1]},), one for each class", weight.shape)
        check_matches(input, weight, where, "weight")
    if ignore_index is not None and not is_count(ignore_index, -(2**63), 2**63 - 1):
        raise ParameterError.expected(where, "ignore_index", "an int or None", shown(ignore_index))
    check_number(label_smoothing, where, "label_smoothing", 0, 1)


def optioned_cross_entropy(
    input: Tensor,
    target: Tensor,
    reduction: str,
    weight: Tensor | None,
    ignore_index: int | None,
    label_smoothing: float,
) -> Tensor:
    """Return ``cross_entropy`` with options; input and target have been checked."""
    check_class_options("cross_entropy", input, weight, ignore_index, label_smoothing)
    if target.dtype.kind in "iu":
        d, counted = label_distribution(input, target, weight, ignore_index, label_smoothing)
    else:
        C = input.shape[1]
        d = target * (1 - label_smoothing) + label_smoothing / C
        d = d if weight is None else d * weight
        counted = input.like(input.backend.asarray(input.shape[0], input.dtype))
    return apply(_weighted_cross_entropy, input, d, counted, reduction=reduction, normalise=True)


def nll_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    """Return the negative log likelihood -input[target] over a batch.

    input: (N, C) log probabilities (``log_softmax``) and target: (N,) integers; also (N, C, H, W) and (N, H, W), or (C,) and
    (). weight: (C,), one for each class. Labels equal to ignore_index are ignored. Raises ShapeError, DTypeError or
    ParameterError. A label out of range raises ParameterError on the CPU and gives NaN on a GPU.

    >>> import gpucnn
    >>> nll_loss(gpucnn.tensor([[-1.0, -2.0]]), gpucnn.tensor([1])).item()
    2.0
    """
    check_reduction(reduction, "nll_loss")
    check_float(input, "nll_loss")
    check_tensor(target, "nll_loss", "target")
    if (input.ndim == 1 and target.ndim == 0) or input.ndim > 2:
        rows = partial(nll_loss, reduction=reduction, weight=weight, ignore_index=ignore_index)
        return by_rows(rows, input, target, "nll_loss", reduction != "none")
    if input.ndim != 2 or target.shape != input.shape[:1]:
        raise ShapeError.expected(
            "nll_loss", "shapes", "input (N, C), target (N,)", f"{input.shape} and {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError.expected("nll_loss", "target", "integers", target.dtype)
    check_class_options("nll_loss", input, weight, ignore_index)
    try:
        d, counted = label_distribution(input, signed_labels(target), weight, ignore_index, 0.0)
    except IndexError:
        raise label_error("nll_loss", input) from None
    return apply(_weighted_cross_entropy, input, d, counted, reduction=reduction, normalise=False)


def _cross_entropy(
    backend: Backend, logits: Array, target: Array, requires_grad: RequiresGrad, reduction: str
) -> Result:
    """On arrays, with integer targets. Keeps softmax - one_hot, the gradient of each loss."""
    losses, gradient = ops.cross_entropy(backend, logits, target, requires_grad[0])
    y, _ = reduce_losses(backend, losses, reduction)
    if not requires_grad[0]:
        return y, None
    if reduction == "none":
        return y, lambda dy: (ops.scale_rows(backend, gradient, dy), None)
    divisor = divisor_of(losses, reduction)
    return y, lambda dy: (ops.scale(backend, gradient, dy, divisor), None)


def _soft_cross_entropy(
    backend: Backend, logits: Array, target: Array, requires_grad: RequiresGrad, reduction: str
) -> Result:
    """On arrays, with class distributions as targets."""
    losses, log_p = ops.soft_cross_entropy(backend, logits, target)
    y, spread = reduce_losses(backend, losses, reduction)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: ops.soft_cross_entropy_gradients(backend, spread(dy), log_p, target, requires_grad)


def _mse_loss(backend: Backend, x: Array, target: Array, requires_grad: RequiresGrad, reduction: str) -> Result:
    y, spread = reduce_losses(backend, ops.squared_error(backend, x, target), reduction)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: ops.squared_error_gradients(backend, spread(dy), x, target, requires_grad)


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

    input: (N, C) floating logits; target: (N,) integers from 0 to C - 1, or (N, C) class probabilities (such as one-hot) of
    the input's dtype. To classify pixels: (N, C, H, W) logits and (N, H, W) integers or (N, C, H, W) probabilities; for one
    example: (C,) and (). weight: (C,), one for each class. Labels equal to ignore_index are ignored. label_smoothing
    spreads that part of each target evenly over all classes (Szegedy et al. 2016).
    Output: a scalar, or (N,) with reduction="none"; float32 for float16 logits. The mean of an empty batch is NaN.
    Raises ShapeError, DTypeError, ParameterError. A label out of range raises ParameterError on the CPU. A GPU cannot raise
    without synchronising: there the loss is NaN in float32 or with options; in float64 without options the loss of another
    class is returned. The trainer checks data sets when it loads them; check your own labels before the loop.
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
    if input.ndim > 2 or (input.ndim == 1 and target.ndim in (0, 1)):
        rows = partial(
            cross_entropy,
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
        )
        return by_rows(rows, input, target, "cross_entropy", reduction != "none")
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
            return apply(_cross_entropy, input, target, reduction=reduction)
        except IndexError:
            raise label_error("cross_entropy", input) from None
    if target.shape != input.shape:
        raise ShapeError.expected(
            "cross_entropy", "target", f"({input.shape[0]},) integers or {input.shape} weights", target.shape
        )
    check_matches(input, target, "cross_entropy", "target")
    if optioned:
        return optioned_cross_entropy(input, target, reduction, weight, ignore_index, label_smoothing)
    return apply(_soft_cross_entropy, input, target, reduction=reduction)


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the element-wise (input - target)^2, reduced. Both have one shape and floating dtype.

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
    return apply(_mse_loss, input, target, reduction=reduction)


def _l1_loss(backend: Backend, x: Array, target: Array, requires_grad: RequiresGrad, reduction: str) -> Result:
    y, spread = reduce_losses(backend, ops.absolute_error(backend, x, target), reduction)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: ops.absolute_error_gradients(backend, spread(dy), x, target, requires_grad)


def _huber_loss(
    backend: Backend, x: Array, target: Array, requires_grad: RequiresGrad, reduction: str, delta: float
) -> Result:
    y, spread = reduce_losses(backend, ops.huber(backend, x, target, delta), reduction)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: ops.huber_gradients(backend, spread(dy), x, target, requires_grad, delta)


def _binary_cross_entropy(
    backend: Backend, p: Array, target: Array, requires_grad: RequiresGrad, reduction: str
) -> Result:
    losses, logarithms = ops.binary_cross_entropy(backend, p, target)
    y, spread = reduce_losses(backend, losses, reduction)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: ops.binary_cross_entropy_gradients(backend, spread(dy), p, target, logarithms, requires_grad)


def _binary_cross_entropy_with_logits(
    backend: Backend, x: Array, target: Array, requires_grad: RequiresGrad, reduction: str
) -> Result:
    losses, small = ops.binary_cross_entropy_with_logits(backend, x, target)
    y, spread = reduce_losses(backend, losses, reduction)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: ops.binary_cross_entropy_with_logits_gradients(
        backend, spread(dy), x, target, small, requires_grad
    )


def _hinge_loss(backend: Backend, x: Array, target: Array, requires_grad: RequiresGrad, reduction: str) -> Result:
    y, spread = reduce_losses(backend, ops.hinge(backend, x, target), reduction)
    if not any(requires_grad):
        return y, None
    return y, lambda dy: ops.hinge_gradients(backend, spread(dy), x, target, requires_grad)


def _check_pair(input: Tensor, target: Tensor, reduction: str, where: str) -> None:
    check_reduction(reduction, where)
    check_float(input, where)
    check_tensor(target, where, "target")
    check_matches(input, target, where, "target")
    if input.shape != target.shape:
        raise ShapeError.expected(where, "target", f"the input's shape {input.shape}", target.shape)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the element-wise |input - target|, reduced. Both have one shape and floating dtype.

    >>> import gpucnn
    >>> l1_loss(gpucnn.tensor([1.0, 3.0]), gpucnn.tensor([1.0, 1.0])).item()
    1.0
    """
    _check_pair(input, target, reduction, "l1_loss")
    return apply(_l1_loss, input, target, reduction=reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Return d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d = input - target. Source: Huber 1964.

    >>> import gpucnn
    >>> huber_loss(gpucnn.tensor([0.0, 3.0]), gpucnn.tensor([1.0, 0.0]), "none").tolist()
    [0.5, 2.5]
    """
    _check_pair(input, target, reduction, "huber_loss")
    check_positive(delta, "huber_loss", "delta")
    return apply(_huber_loss, input, target, reduction=reduction, delta=float(delta))


def binary_cross_entropy(
    input: Tensor, target: Tensor, reduction: str = "mean", *, weight: Tensor | None = None
) -> Tensor:
    """Return -(t log p + (1 - t) log(1 - p)) for probabilities p = input; logarithms are clamped to at least -100.

    weight: a factor of each loss, of a shape that broadcasts to the input's.

    >>> import gpucnn
    >>> round(binary_cross_entropy(gpucnn.tensor([0.5]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """
    where = "binary_cross_entropy"
    _check_pair(input, target, reduction, where)
    if weight is None:
        return apply(_binary_cross_entropy, input, target, reduction=reduction)
    losses = apply(_binary_cross_entropy, input, target, reduction="none")
    return _reduced(losses * _factor(weight, input, where, "weight"), reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross-entropy of sigmoid(input), without overflow for any logit.

    weight: a factor of each loss; pos_weight: of the part of the positive class, t log p. Shapes broadcast to the input's.

    >>> import gpucnn
    >>> round(binary_cross_entropy_with_logits(gpucnn.tensor([0.0]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """
    where = "binary_cross_entropy_with_logits"
    _check_pair(input, target, reduction, where)
    if weight is None and pos_weight is None:
        return apply(_binary_cross_entropy_with_logits, input, target, reduction=reduction)
    if pos_weight is None:
        losses = apply(_binary_cross_entropy_with_logits, input, target, reduction="none")
    else:
        share = (_factor(pos_weight, input, where, "pos_weight") - 1) * target + 1
        losses = (1 - target) * input + share * softplus(-input, threshold=math.inf)
    losses = losses if weight is None else losses * _factor(weight, input, where, "weight")
    return _reduced(losses, reduction)


def _factor(weight: Tensor, input: Tensor, where: str, argument: str) -> Tensor:
    """Return a factor of losses; ShapeError unless it broadcasts to the input's shape."""
    check_tensor(weight, where, argument)
    check_matches(input, weight, where, argument)
    pairs = zip(reversed(weight.shape), reversed(input.shape), strict=False)
    if weight.ndim > input.ndim or any(n not in (1, m) for n, m in pairs):
        raise ShapeError.expected(where, argument, f"a shape that broadcasts to {input.shape}", weight.shape)
    return weight


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() / divisor_of(losses.array, reduction) if reduction == "mean" else losses.sum()


def hinge_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return max(0, 1 - input target) for targets of -1 and 1. Source: Cortes & Vapnik 1995.

    >>> import gpucnn
    >>> hinge_loss(gpucnn.tensor([0.5, 2.0]), gpucnn.tensor([1.0, -1.0]), "none").tolist()
    [0.5, 3.0]
    """
    _check_pair(input, target, reduction, "hinge_loss")
    return apply(_hinge_loss, input, target, reduction=reduction)
