"""The optimisers' updates of flat arrays in place: parameters ``p``, gradient ``g``, state, hyper-parameters.

Where ``where`` is false nothing changes.
"""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation

# --- stretches of flat arrays ----------------------------------------------------------------------------------------


@operation()
def copy_span(device: Device, target: Array, source: Array, span: slice) -> None:
    """Copy, and cast, a stretch of one flat array into the same one of another."""
    target[span] = source[span]


@operation()
def divide_span(device: Device, target: Array, span: slice, divisor: Array) -> None:
    """Divide a stretch of a flat array in place."""
    target[span] /= divisor


@operation()
def follow_rounded(device: Device, master: Array, shown: Array, span: slice) -> None:
    """Write a stretch of ``shown`` into its wider ``master``, but where that rounds to it."""
    wide, narrow = master[span], shown[span]
    wide[...] = device.xp.where(wide.astype(narrow.dtype) == narrow, wide, narrow)


# --- updates ---------------------------------------------------------------------------------------------------------


@operation()
def sgd_update(
    device: Device, p: Array, g: Array, velocity: Array | None, *,
    lr: float, momentum: float, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    """Update flat ``p`` (and ``velocity``) in place: v = momentum v + g, p -= lr v; nothing where ``where`` is false."""
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
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int,
    decoupled: bool = False, where: Array | bool = True,
) -> None:  # fmt: skip
    """Update flat ``p, m, v`` in place (Kingma & Ba 2015, with bias correction); nothing where ``where`` is false."""
    start = p
    if weight_decay and decoupled:
        start = p * (1 - lr * weight_decay)
    elif weight_decay:
        g = g + weight_decay * p
    new_m = beta1 * m + (1 - beta1) * g
    new_v = beta2 * v + (1 - beta2) * (g * g)
    root = device.xp.sqrt(new_v) / (1 - beta2**step) ** 0.5 + eps
    device.xp.copyto(p, start - (lr / (1 - beta1**step)) * new_m / root, where=where)
    device.xp.copyto(m, new_m, where=where)
    device.xp.copyto(v, new_v, where=where)


@operation()
def adagrad_update(
    device: Device, p: Array, g: Array, total: Array, *,
    lr: float, eps: float, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    """Divide each step by the root of all squared gradients so far (Duchi, Hazan & Singer 2011)."""
    if weight_decay:
        g = g + weight_decay * p
    new_total = total + g * g
    device.xp.copyto(p, p - lr * g / (device.xp.sqrt(new_total) + eps), where=where)
    device.xp.copyto(total, new_total, where=where)


@operation()
def rmsprop_update(
    device: Device, p: Array, g: Array, square: Array, mean: Array, velocity: Array, *,
    lr: float, alpha: float, eps: float, weight_decay: float, momentum: float, centered: bool,
    where: Array | bool = True,
) -> None:  # fmt: skip
    """Divide each step by the root of a running mean of squared gradients (Tieleman & Hinton 2012)."""
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
    lr: float, rho: float, eps: float, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    """Scale each step by the root of past steps over the root of past gradients, both running means (Zeiler 2012)."""
    if weight_decay:
        g = g + weight_decay * p
    new_square = rho * square + (1 - rho) * (g * g)
    delta = device.xp.sqrt(moved + eps) / device.xp.sqrt(new_square + eps) * g
    device.xp.copyto(p, p - lr * delta, where=where)
    device.xp.copyto(square, new_square, where=where)
    device.xp.copyto(moved, rho * moved + (1 - rho) * (delta * delta), where=where)
