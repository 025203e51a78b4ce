"""The optimisers' in-place updates of flat arrays: parameters ``p``, gradient ``g``, state, hyper-parameters.

Nothing changes where ``where`` is false. Hyper-parameters that may differ from step to step (``lr``, ``momentum``,
``beta1``) are numbers or, in a captured step, (1,) float64 arrays. ``step`` is the number of updates including this one; or
a float64 array (S,), all elements equal, that counts the updates so far and is incremented where ``where`` holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation

# --- spans of flat arrays ----------------------------------------------------------------------------------------


@operation()
def copy_span(device: Device, target: Array, source: Array, span: slice) -> None:
    """Copy a span of one flat array into the same span of another, with casting."""
    target[span] = source[span]


@operation()
def divide_span(device: Device, target: Array, span: slice, divisor: Array) -> None:
    """Divide a span of a flat array in place."""
    target[span] /= divisor


@operation()
def follow_rounded(device: Device, master: Array, shown: Array, span: slice) -> None:
    """Copy a span of ``shown`` into the wider ``master``, except where ``master`` already rounds to it."""
    wide, narrow = master[span], shown[span]
    wide[...] = device.xp.where(wide.astype(narrow.dtype) == narrow, wide, narrow)


# --- updates ---------------------------------------------------------------------------------------------------------

Number = float | Array
Steps = int | Array


@operation()
def set_numbers(device: Device, target: Array, values: Sequence[float]) -> None:
    """Write one or two numbers into ``target``, float64, without waiting for the device."""
    target[...] = device.asarray(values, target.dtype)


def _in(dtype: Any, number: Number) -> Number:
    """Return a number that does not widen arrays of ``dtype``. Python numbers do not; arrays are cast."""
    return number if isinstance(number, (int, float)) else number.astype(dtype)


def _count(device: Device, step: Steps, where: Array | bool) -> Number:
    """Return the number of updates, including this one."""
    if isinstance(step, int):
        return step
    before = step[:1].copy()
    device.xp.copyto(step, step + 1, where=where)
    return before + 1


@operation()
def sgd_update(
    device: Device, p: Array, g: Array, velocity: Array | None, *,
    lr: Number, momentum: Number, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    """Update flat ``p`` (and ``velocity``) in place: v = momentum v + g, p -= lr v; nothing where ``where`` is false."""
    lr, momentum = _in(p.dtype, lr), _in(p.dtype, momentum)
    if weight_decay:
        g = g + weight_decay * p
    if velocity is not None:
        new_velocity = momentum * velocity + g
        g = g + momentum * new_velocity if nesterov else new_velocity
        device.xp.copyto(velocity, new_velocity, where=where)
    device.xp.copyto(p, p - lr * g, where=where)


@operation()
def adam_update(
    device: Device, p: Array, g: Array, m: Array, v: Array, *,
    lr: Number, beta1: Number, beta2: float, eps: float, weight_decay: float, step: Steps,
    decoupled: bool = False, where: Array | bool = True,
) -> None:  # fmt: skip
    """Update flat ``p, m, v`` in place (Kingma & Ba 2015, with bias correction); nothing where ``where`` is false."""
    _adam(
        device, p, g, m, v, None, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, step=step,
        decoupled=decoupled, where=where,
    )  # fmt: skip


@operation()
def amsgrad_update(
    device: Device, p: Array, g: Array, m: Array, v: Array, highest: Array, *,
    lr: Number, beta1: Number, beta2: float, eps: float, weight_decay: float, step: Steps,
    decoupled: bool = False, where: Array | bool = True,
) -> None:  # fmt: skip
    """``adam_update`` that divides by the root of ``highest``, the largest v so far (Reddi, Kale & Kumar 2018)."""
    _adam(
        device, p, g, m, v, highest, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay, step=step,
        decoupled=decoupled, where=where,
    )  # fmt: skip


def _adam(
    device: Device, p: Array, g: Array, m: Array, v: Array, highest: Array | None, *,
    lr: Number, beta1: Number, beta2: float, eps: float, weight_decay: float, step: Steps, decoupled: bool,
    where: Array | bool,
) -> None:  # fmt: skip
    count = _count(device, step, where)
    rate, root_of_correction = _in(p.dtype, lr / (1 - beta1**count)), _in(p.dtype, (1 - beta2**count) ** 0.5)
    one_minus_beta1, beta1, lr = _in(p.dtype, 1 - beta1), _in(p.dtype, beta1), _in(p.dtype, lr)
    start = p
    if weight_decay and decoupled:
        start = p * (1 - lr * weight_decay)
    elif weight_decay:
        g = g + weight_decay * p
    new_m = beta1 * m + one_minus_beta1 * g
    new_v = beta2 * v + (1 - beta2) * (g * g)
    new_highest = new_v if highest is None else device.xp.maximum(highest, new_v)
    root = device.xp.sqrt(new_highest) / root_of_correction + eps
    device.xp.copyto(p, start - rate * new_m / root, where=where)
    if highest is not None:
        device.xp.copyto(highest, new_highest, where=where)
    device.xp.copyto(m, new_m, where=where)
    device.xp.copyto(v, new_v, where=where)


@operation()
def adagrad_update(
    device: Device, p: Array, g: Array, total: Array, *,
    lr: Number, lr_decay: float, eps: float, weight_decay: float, step: Steps, where: Array | bool = True,
) -> None:  # fmt: skip
    """Divide each step by the root of the sum of all squared gradients so far (Duchi, Hazan & Singer 2011)."""
    lr = _in(p.dtype, lr / (1 + (_count(device, step, where) - 1) * lr_decay))
    if weight_decay:
        g = g + weight_decay * p
    new_total = total + g * g
    device.xp.copyto(p, p - lr * g / (device.xp.sqrt(new_total) + eps), where=where)
    device.xp.copyto(total, new_total, where=where)


@operation()
def rmsprop_update(
    device: Device, p: Array, g: Array, square: Array, mean: Array, velocity: Array, *,
    lr: Number, alpha: float, eps: float, weight_decay: float, momentum: Number, centered: bool,
    where: Array | bool = True,
) -> None:  # fmt: skip
    """Divide each step by the root of a running mean of squared gradients (Tieleman & Hinton 2012)."""
    lr, momentum = _in(p.dtype, lr), _in(p.dtype, momentum)
    if weight_decay:
        g = g + weight_decay * p
    new_square = alpha * square + (1 - alpha) * (g * g)
    new_mean = alpha * mean + (1 - alpha) * g if centered else mean
    variance = new_square - new_mean * new_mean if centered else new_square
    new_velocity = momentum * velocity + g / (device.xp.sqrt(variance) + eps)
    device.xp.copyto(p, p - lr * new_velocity, where=where)
    for old, new in ((square, new_square), (mean, new_mean), (velocity, new_velocity)):
        device.xp.copyto(old, new, where=where)


@operation()
def adadelta_update(
    device: Device, p: Array, g: Array, square: Array, moved: Array, *,
    lr: Number, rho: float, eps: float, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    """Scale each step by the root of past steps over the root of past gradients, both running means (Zeiler 2012)."""
    lr = _in(p.dtype, lr)
    if weight_decay:
        g = g + weight_decay * p
    new_square = rho * square + (1 - rho) * (g * g)
    delta = device.xp.sqrt(moved + eps) / device.xp.sqrt(new_square + eps) * g
    device.xp.copyto(p, p - lr * delta, where=where)
    device.xp.copyto(square, new_square, where=where)
    device.xp.copyto(moved, rho * moved + (1 - rho) * (delta * delta), where=where)
