"""Losses that compare element by element. Reductions: "mean" over all elements, "sum", or "none"."""

from __future__ import annotations

from collections.abc import Callable

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend
from gpucnn.checks import check_positive
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import check_float, check_matches, check_tensor
from gpucnn.functional.reduction import check_reduction, reduce_losses

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


def absolute_error(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str) -> Result:
    difference = x - target
    sign = backend.xp.sign
    return _compared(backend, abs(difference), needs, reduction, lambda: sign(difference), lambda: -sign(difference))


def huber_error(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str, delta: float) -> Result:
    xp, difference = backend.xp, x - target
    size = abs(difference)
    losses = xp.where(size <= delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))
    slope: Slope = lambda: xp.clip(difference, -delta, delta)  # noqa: E731 - beside its negative
    return _compared(backend, losses, needs, reduction, slope, lambda: -slope())


def binary_entropy(backend: Backend, p: Array, target: Array, needs: Needs, reduction: str) -> Result:
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


def binary_entropy_of_logits(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str) -> Result:
    """max(x, 0) - x target + log(1 + e^-|x|), which cannot overflow."""
    xp = backend.xp
    small = xp.exp(-abs(x))
    losses = xp.maximum(x, xp.zeros((), x.dtype)) - x * target + xp.log1p(small)
    rest = small / (1 + small)  # sigmoid(-|x|): sigmoid(x) - target without the rounding of what is nearly 1
    slope: Slope = lambda: xp.where(x >= 0, (1 - target) - rest, rest - target)  # noqa: E731 - beside its use
    return _compared(backend, losses, needs, reduction, slope, lambda: -x)


def margin_shortfall(backend: Backend, x: Array, target: Array, needs: Needs, reduction: str) -> Result:
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
    return apply(absolute_error, input, target, reduction=reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Return d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d = input - target. Source: Huber 1964.

    >>> import gpucnn
    >>> huber_loss(gpucnn.tensor([0.0, 3.0]), gpucnn.tensor([1.0, 0.0]), "none").tolist()
    [0.5, 2.5]
    """
    _check_pair(input, target, reduction, "huber_loss")
    check_positive(delta, "huber_loss", "delta")
    return apply(huber_error, input, target, reduction=reduction, delta=float(delta))


def binary_cross_entropy(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return -(t log p + (1 - t) log(1 - p)) for probabilities p = input; logarithms are cut off at -100.

    >>> import gpucnn
    >>> round(binary_cross_entropy(gpucnn.tensor([0.5]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """
    _check_pair(input, target, reduction, "binary_cross_entropy")
    return apply(binary_entropy, input, target, reduction=reduction)


def binary_cross_entropy_with_logits(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return the binary cross-entropy of sigmoid(input), without overflow for any logit.

    >>> import gpucnn
    >>> round(binary_cross_entropy_with_logits(gpucnn.tensor([0.0]), gpucnn.tensor([1.0])).item(), 4)
    0.6931
    """
    _check_pair(input, target, reduction, "binary_cross_entropy_with_logits")
    return apply(binary_entropy_of_logits, input, target, reduction=reduction)


def hinge_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Return max(0, 1 - input target) for targets of -1 and 1. Source: Cortes & Vapnik 1995.

    >>> import gpucnn
    >>> hinge_loss(gpucnn.tensor([0.5, 2.0]), gpucnn.tensor([1.0, -1.0]), "none").tolist()
    [0.5, 3.0]
    """
    _check_pair(input, target, reduction, "hinge_loss")
    return apply(margin_shortfall, input, target, reduction=reduction)
