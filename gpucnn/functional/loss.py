"""Losses: how wrong a batch of outputs is. Gradients are those of the reduced value, with no hidden division.

Every case is -sum over classes of d log p, with ``d`` (N, C) the weighted and smoothed distribution that the targets mean,
so one operation serves all; the mean divides by the sum of the weights of the labels that count, as in PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend
from gpucnn.backend.ops.reduction import divided
from gpucnn.backend.precision import is_half
from gpucnn.checks import check_choice, check_number, check_positive, is_count, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.functional.arguments import check_float, check_matches, check_tensor


def reduce_losses(backend: Backend, losses: Array, reduction: str) -> tuple[Array, Callable[[Array], Array]]:
    """Return the reduced losses, and a function from the gradient of that to the gradient of each loss."""
    xp, shape = backend.xp, losses.shape
    if reduction == "none":
        return losses, lambda dy: dy
    divisor = divisor_of(losses, reduction)
    return backend.mean_loss(losses, divisor), lambda dy: xp.broadcast_to(divided(dy, divisor), shape)


def divisor_of(losses: Array, reduction: str) -> float:
    """Return what the sum of the losses is divided by: the mean of nothing is NaN, without a warning about 0 / 0."""
    return (losses.size or math.nan) if reduction == "mean" else 1


def check_reduction(reduction: str, where: str) -> None:
    check_choice(reduction, where, "reduction", ("mean", "sum", "none"))


def _weighted_cross_entropy(
    backend: Backend, x: Array, d: Array, counted: Array, needs: Needs, reduction: str, normalise: bool
) -> Result:
    """Array level: x are logits (``normalise``) or logarithms of probabilities; ``counted`` is what the mean divides by."""
    xp = backend.xp
    log_p = x
    if normalise:
        shifted = x - x.max(1, keepdims=True)
        log_p = shifted - xp.log(xp.exp(shifted).sum(1, keepdims=True))
    losses = -xp.where(d == 0, xp.zeros((), x.dtype), d * log_p).sum(1)
    divisor = counted if reduction == "mean" else xp.ones((), x.dtype)
    y = losses if reduction == "none" else xp.asarray(losses.sum() / divisor)
    if not any(needs):
        return y, None

    def backward(dy: Array) -> tuple[Array | None, Array | None, None]:
        each = (dy if reduction == "none" else xp.broadcast_to(dy / divisor, losses.shape))[:, None]
        dd = -log_p * each if needs[1] else None
        if not needs[0]:
            return None, dd, None
        slope = xp.exp(log_p) * d.sum(1, keepdims=True) - d if normalise else -d
        counts = (d != 0).any(1, keepdims=True)  # without any label that counts, each is 0 / 0
        return xp.where(counts, slope * each, xp.zeros((), x.dtype)), dd, None

    return y, backward


def signed_labels(target: Tensor) -> Tensor:
    """Return integer labels in a type that backends index with: uint64 becomes int64, without wrapping into -1."""
    if target.dtype != "uint64":
        return target
    backend = target.backend
    with backend.active():
        most = backend.xp.asarray(2**63 - 1, target.array.dtype)
        return target.like(backend.xp.minimum(target.array, most).astype("int64"))


def label_distribution(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the distribution (N, C) that integer labels mean, and the sum of the weights of those that count."""
    backend, (N, C) = input.backend, input.shape
    xp = backend.xp
    with backend.active():
        w = xp.ones(C, input.dtype) if weight is None else weight.array
        labels = target.array
        keep = xp.ones(N, bool) if ignore_index is None else labels != ignore_index
        safe = xp.where(keep, labels, xp.zeros((), labels.dtype))
        safe = xp.where(safe < 0, C, safe)
        one_hot = (safe[:, None] == xp.arange(C)).astype(input.dtype)
        kept = xp.where(safe < C, keep.astype(input.dtype), xp.asarray(float("nan"), input.dtype))
        d = ((1 - smoothing) * one_hot + smoothing / C) * w * kept[:, None]
        counted = xp.asarray((w[safe] * kept).sum())
    return input.like(d), input.like(counted)


def label_error(where: str, input: Tensor) -> ParameterError:
    """Return the error of an integer label that is none of the classes."""
    labels = f"labels from 0 to {input.shape[1] - 1} for input {input.shape}"
    return ParameterError.expected(where, "target", labels, "another")


def check_class_options(
    where: str, input: Tensor | None, weight: Tensor | None, ignore_index: int | None, label_smoothing: float = 0.0
) -> None:
    """Check the options that integer and soft targets share; without an input, what can be checked without."""
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
    """Return ``cross_entropy`` with options; input and target are checked already."""
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
    """Return -input[target]: the loss of logarithms of probabilities (``log_softmax``), over a batch.

    input: (N, C); target: (N,) integers; weight: (C,) of the classes; labels equal to ignore_index do not count.
    Raises ShapeError, DTypeError or ParameterError; a label out of range is one on the CPU, and NaN on a GPU.

    >>> import gpucnn
    >>> nll_loss(gpucnn.tensor([[-1.0, -2.0]]), gpucnn.tensor([1])).item()
    2.0
    """
    check_reduction(reduction, "nll_loss")
    check_float(input, "nll_loss")
    check_tensor(target, "nll_loss", "target")
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


def _cross_entropy(backend: Backend, logits: Array, target: Array, needs: Needs, reduction: str) -> Result:
    """Array level, integer targets. Keeps softmax - one_hot, which is the gradient of each loss."""
    losses, gradient = backend.cross_entropy(logits, target, needs[0])
    y, _ = reduce_losses(backend, losses, reduction)
    if not needs[0]:
        return y, None
    if reduction == "none":
        return y, lambda dy: (gradient * dy[:, None], None)
    divisor = divisor_of(losses, reduction)
    return y, lambda dy: (backend.scale(gradient, dy, divisor), None)


def _soft_cross_entropy(backend: Backend, logits: Array, target: Array, needs: Needs, reduction: str) -> Result:
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


def _mse_loss(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str) -> Result:
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
    return apply(_mse_loss, input, target, reduction=reduction)


Slope = Callable[[], Array]


def _compared(
    backend: Backend, losses: Array, needs: Needs, reduction: str, by_input: Slope, by_target: Slope
) -> Result:
    """Reduce element-wise losses; the slopes are the derivatives by each side, computed only if needed."""
    y, spread = reduce_losses(backend, losses, reduction)
    if not any(needs):
        return y, None

    def backward(dy: Array) -> tuple[Array | None, Array | None]:
        each = spread(dy)
        return (by_input() * each if needs[0] else None, by_target() * each if needs[1] else None)

    return y, backward


def _l1_loss(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str) -> Result:
    difference = x - target
    sign = backend.xp.sign
    return _compared(backend, abs(difference), needs, reduction, lambda: sign(difference), lambda: -sign(difference))


def _huber_loss(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str, delta: float) -> Result:
    xp, difference = backend.xp, x - target
    size = abs(difference)
    losses = xp.where(size <= delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))
    slope: Slope = lambda: xp.clip(difference, -delta, delta)  # noqa: E731 - beside its negative
    return _compared(backend, losses, needs, reduction, slope, lambda: -slope())


def _binary_cross_entropy(backend: Backend, p: Array, target: Array, needs: Needs, reduction: str) -> Result:
    """Logarithms are cut off at -100, as in PyTorch, so that a certain wrong answer costs 100."""
    xp = backend.xp
    floor = xp.asarray(-100, p.dtype)
    tiny = xp.finfo(p.dtype).tiny
    log_p = xp.maximum(xp.log(xp.maximum(p, xp.asarray(tiny, p.dtype))), floor)
    log_q = xp.maximum(xp.log(xp.maximum(1 - p, xp.asarray(tiny, p.dtype))), floor)
    log_p, log_q = xp.where(p == 0, floor, log_p), xp.where(p == 1, floor, log_q)
    least = xp.asarray(1e-12, xp.float32).astype(p.dtype)  # PyTorch's bound, which is a float32 in float64 too
    return _compared(
        backend,
        -(target * log_p + (1 - target) * log_q),
        needs,
        reduction,
        lambda: (p - target) / xp.maximum(p * (1 - p), least),
        lambda: log_q - log_p,
    )


def _binary_cross_entropy_with_logits(
    backend: Backend, x: Array, target: Array, needs: Needs, reduction: str
) -> Result:
    """max(x, 0) - x target + log(1 + e^-|x|), which cannot overflow."""
    xp = backend.xp
    small = xp.exp(-abs(x))
    losses = xp.maximum(x, xp.zeros((), x.dtype)) - x * target + xp.log1p(small)
    rest = small / (1 + small)  # sigmoid(-|x|): sigmoid(x) - target without the rounding of what is nearly 1
    slope: Slope = lambda: xp.where(x >= 0, (1 - target) - rest, rest - target)  # noqa: E731 - beside its use
    return _compared(backend, losses, needs, reduction, slope, lambda: -x)


def _hinge_loss(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str) -> Result:
    xp, short = backend.xp, 1 - x * target
    active = (short > 0).astype(x.dtype)
    losses = xp.maximum(short, xp.zeros((), x.dtype))
    return _compared(backend, losses, needs, reduction, lambda: -target * active, lambda: -x * active)


def _check_pair(input: Tensor, target: Tensor, reduction: str, where: str) -> None:
    check_reduction(reduction, where)
    check_float(input, where)
    check_tensor(target, where, "target")
    check_matches(input, target, where, "target")
    if input.shape != target.shape:
        raise ShapeError.expected(where, "target", f"the input's shape {input.shape}", target.shape)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return |input - target|, reduced. Both of one shape and floating dtype.

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


def binary_cross_entropy(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return -(t log p + (1 - t) log(1 - p)) for probabilities p = input; logarithms are cut off at -100.

    >>> import gpucnn
    >>> round(binary_cross_entropy(gpucnn.tensor([0.5]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """
    _check_pair(input, target, reduction, "binary_cross_entropy")
    return apply(_binary_cross_entropy, input, target, reduction=reduction)


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the binary cross-entropy of sigmoid(input), without overflow for any logit.

    >>> import gpucnn
    >>> round(binary_cross_entropy_with_logits(gpucnn.tensor([0.0]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """
    _check_pair(input, target, reduction, "binary_cross_entropy_with_logits")
    return apply(_binary_cross_entropy_with_logits, input, target, reduction=reduction)


def hinge_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return max(0, 1 - input target) for targets of -1 and 1. Source: Cortes & Vapnik 1995.

    >>> import gpucnn
    >>> hinge_loss(gpucnn.tensor([0.5, 2.0]), gpucnn.tensor([1.0, -1.0]), "none").tolist()
    [0.5, 3.0]
    """
    _check_pair(input, target, reduction, "hinge_loss")
    return apply(_hinge_loss, input, target, reduction=reduction)
