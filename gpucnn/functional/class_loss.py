"""Cross-entropy with weights of the classes, smoothed or ignored labels; and on logarithms of probabilities.

Every case is -sum over classes of d log p, with ``d`` (N, C) the weighted and smoothed distribution that the targets mean,
so one operation serves all; the mean divides by the sum of the weights of the labels that count, as in PyTorch.
"""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend
from gpucnn.checks import check_number, is_count, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.functional.arguments import check_float, check_matches, check_tensor
from gpucnn.functional.reduction import check_reduction


def weighed_entropy(
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
    return apply(weighed_entropy, input, d, counted, reduction=reduction, normalise=True)


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
    return apply(weighed_entropy, input, d, counted, reduction=reduction, normalise=False)
