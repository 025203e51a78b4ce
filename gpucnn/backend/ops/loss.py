"""Losses. Element-wise losses return one loss per element; ``mean_loss`` reduces them to one number."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.ops.activation import log_softmax
from gpucnn.backend.ops.reduction import divided, mean_of

Gradients = tuple[Array | None, Array | None]
RequiresGrad = tuple[bool, ...]

# --- reduction -------------------------------------------------------------------------------------------------------


@operation()
def mean_loss(device: Device, losses: Array, divisor: float) -> Array:
    """Return the sum of the losses divided by ``divisor``, as a 0-d array."""
    return device.xp.asarray(mean_of(losses, None, False, divisor))


@operation()
def spread_loss(device: Device, dy: Array, divisor: float, shape: tuple[int, ...]) -> Array:
    """Return the gradient of each loss, of ``shape``, given the gradient of ``mean_loss``."""
    return device.xp.broadcast_to(divided(dy, divisor), shape)


# --- classes ---------------------------------------------------------------------------------------------------------


@operation()
def cross_entropy(device: Device, logits: Array, target: Array, needs_gradient: bool) -> tuple[Array, Array | None]:
    """Return -log softmax(logits)[target], (N,), for (N, C) logits, and its gradient softmax - one_hot, (N, C)."""
    rows = device.xp.arange(logits.shape[0])
    target = device.xp.where(target < 0, logits.shape[1], target)  # a negative index would count from the end
    shifted = logits - logits.max(1, keepdims=True)
    exponentials = device.xp.exp(shifted)
    total = exponentials.sum(1, keepdims=True)
    losses = device.xp.log(total[:, 0]) - shifted[rows, target]
    if not needs_gradient:
        return losses, None
    gradient = exponentials / total
    gradient[rows, target] -= 1
    return losses, gradient


@operation(widens=True)
def scale(device: Device, x: Array, factor: Array, divisor: float) -> Array:
    """Return x times ``factor`` (a 0-d array) divided by ``divisor``."""
    return x * (factor / divisor)


@operation()
def scale_rows(device: Device, x: Array, factors: Array) -> Array:
    """Return x (N, C) with each row times its factor (N,)."""
    return x * factors[:, None]


@operation()
def soft_cross_entropy(device: Device, logits: Array, target: Array) -> tuple[Array, Array]:
    """Return -sum(target log softmax(logits)), (N,), for target (N, C), and the log softmax for the gradients."""
    log_p = log_softmax(device, logits, 1)
    return -(target * log_p).sum(1), log_p


@operation()
def soft_cross_entropy_gradients(
    device: Device, each: Array, log_p: Array, target: Array, requires_grad: RequiresGrad
) -> Gradients:
    """Return the gradients of logits and target; ``each`` (N,) is the gradient of the losses."""
    each = each[:, None]
    mass = target.sum(1, keepdims=True)
    return (
        (device.xp.exp(log_p) * mass - target) * each if requires_grad[0] else None,
        -log_p * each if requires_grad[1] else None,
    )


@operation()
def as_int64(device: Device, labels: Array) -> Array:
    """Return uint64 labels as int64. Labels that do not fit become the largest int64, which is not a class either."""
    most = device.xp.asarray(2**63 - 1, labels.dtype)
    return device.xp.minimum(labels, most).astype("int64")


@operation()
def label_distribution(
    device: Device, labels: Array, weight: Array | None, classes: int, dtype: object, ignore_index: int | None,
    smoothing: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the class distribution (N, C) of integer labels, and the sum of the weights of labels not ignored."""
    xp = device.xp
    w = xp.ones(classes, dtype) if weight is None else weight
    keep = xp.ones(labels.shape[0], bool) if ignore_index is None else labels != ignore_index
    safe = xp.where(keep, labels, xp.zeros((), labels.dtype))
    safe = xp.where(safe < 0, classes, safe)
    one_hot = (safe[:, None] == xp.arange(classes)).astype(dtype)
    kept = xp.where(safe < classes, keep.astype(dtype), xp.asarray(float("nan"), dtype))
    d = ((1 - smoothing) * one_hot + smoothing / classes) * w * kept[:, None]
    return d, xp.asarray((w[safe] * kept).sum())


@operation()
def distribution_loss(
    device: Device, x: Array, d: Array, counted: Array, reduction: str, normalise: bool
) -> tuple[Array, Array]:
    """Return -sum(d log p), reduced, and log p. x: logits if ``normalise``, else log p. ``counted`` divides the mean."""
    xp = device.xp
    log_p = log_softmax(device, x, 1) if normalise else x
    losses = -xp.where(d == 0, xp.zeros((), x.dtype), d * log_p).sum(1)
    if reduction == "none":
        return losses, log_p
    return xp.asarray(losses.sum() / (counted if reduction == "mean" else xp.ones((), x.dtype))), log_p


@operation()
def distribution_loss_gradients(
    device: Device,
    dy: Array,
    log_p: Array,
    d: Array,
    counted: Array,
    requires_grad: RequiresGrad,
    reduction: str,
    normalise: bool,
) -> Gradients:
    """Return the gradients of x and d."""
    xp = device.xp
    if reduction == "none":
        each = dy[:, None]
    else:
        divisor = counted if reduction == "mean" else xp.ones((), log_p.dtype)
        each = xp.broadcast_to(dy / divisor, log_p.shape[:1])[:, None]
    dd = -log_p * each if requires_grad[1] else None
    if not requires_grad[0]:
        return None, dd
    slope = xp.exp(log_p) * d.sum(1, keepdims=True) - d if normalise else -d
    counts = (d != 0).any(1, keepdims=True)  # if every label is ignored, each is 0 / 0
    return xp.where(counts, slope * each, xp.zeros((), log_p.dtype)), dd


# --- element-wise losses; their gradients take ``each``, the gradient of the losses -----------------------------------


@operation()
def squared_error(device: Device, x: Array, target: Array) -> Array:
    difference = x - target
    return difference * difference


@operation()
def squared_error_gradients(
    device: Device, each: Array, x: Array, target: Array, requires_grad: RequiresGrad
) -> Gradients:
    dx = 2 * (x - target) * each
    return dx if requires_grad[0] else None, -dx if requires_grad[1] else None


@operation()
def absolute_error(device: Device, x: Array, target: Array) -> Array:
    return abs(x - target)


@operation()
def absolute_error_gradients(
    device: Device, each: Array, x: Array, target: Array, requires_grad: RequiresGrad
) -> Gradients:
    sign = device.xp.sign(x - target)
    return sign * each if requires_grad[0] else None, -sign * each if requires_grad[1] else None


@operation()
def huber(device: Device, x: Array, target: Array, delta: float) -> Array:
    """Return d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), d = x - target."""
    difference = x - target
    size = abs(difference)
    return device.xp.where(size <= delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))


@operation()
def huber_gradients(
    device: Device, each: Array, x: Array, target: Array, requires_grad: RequiresGrad, delta: float
) -> Gradients:
    slope = device.xp.clip(x - target, -delta, delta)
    return slope * each if requires_grad[0] else None, -slope * each if requires_grad[1] else None


@operation()
def binary_cross_entropy(device: Device, p: Array, target: Array) -> tuple[Array, tuple[Array, Array]]:
    """Return -(t log p + (1 - t) log(1 - p)), and both logarithms.

    The logarithms are clamped to at least -100, as in PyTorch, so the loss of one element is at most 100.
    """
    xp = device.xp
    lowest = xp.asarray(-100, p.dtype)
    tiny = xp.finfo(p.dtype).tiny
    log_p = xp.maximum(xp.log(xp.maximum(p, xp.asarray(tiny, p.dtype))), lowest)
    log_q = xp.maximum(xp.log(xp.maximum(1 - p, xp.asarray(tiny, p.dtype))), lowest)
    log_p, log_q = xp.where(p == 0, lowest, log_p), xp.where(p == 1, lowest, log_q)
    return -(target * log_p + (1 - target) * log_q), (log_p, log_q)


@operation()
def binary_cross_entropy_gradients(
    device: Device, each: Array, p: Array, target: Array, logarithms: tuple[Array, Array], requires_grad: RequiresGrad
) -> Gradients:
    xp, (log_p, log_q) = device.xp, logarithms
    least = xp.asarray(1e-12, xp.float32).astype(p.dtype)  # PyTorch's bound, a float32 value even for float64
    return (
        (p - target) / xp.maximum(p * (1 - p), least) * each if requires_grad[0] else None,
        (log_q - log_p) * each if requires_grad[1] else None,
    )


@operation()
def binary_cross_entropy_with_logits(device: Device, x: Array, target: Array) -> tuple[Array, Array]:
    """Return max(x, 0) - x target + log(1 + e^-|x|), which cannot overflow; and e^-|x|."""
    xp = device.xp
    small = xp.exp(-abs(x))
    return xp.maximum(x, xp.zeros((), x.dtype)) - x * target + xp.log1p(small), small


@operation()
def binary_cross_entropy_with_logits_gradients(
    device: Device, each: Array, x: Array, target: Array, small: Array, requires_grad: RequiresGrad
) -> Gradients:
    dx = None
    if requires_grad[0]:
        tail = small / (1 + small)  # sigmoid(-|x|), which avoids rounding a sigmoid near 1
        dx = device.xp.where(x >= 0, (1 - target) - tail, tail - target) * each
    return dx, -x * each if requires_grad[1] else None


@operation()
def hinge(device: Device, x: Array, target: Array) -> Array:
    """Return max(0, 1 - x target)."""
    return device.xp.maximum(1 - x * target, device.xp.zeros((), x.dtype))


@operation()
def hinge_gradients(device: Device, each: Array, x: Array, target: Array, requires_grad: RequiresGrad) -> Gradients:
    active = (1 - x * target > 0).astype(x.dtype)
    return -target * active * each if requires_grad[0] else None, -x * active * each if requires_grad[1] else None
