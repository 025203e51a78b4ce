"""Normalisation: values of mean 0 and variance 1 over some axes; and the running statistics of batches."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation

Axes = tuple[int, ...]


@operation(widens=True, keeps=(1,))
def standardise(device: Device, x: Array, axes: Axes, eps: float) -> tuple[Array, Array]:
    """Return (x - mean) / sqrt(variance + eps) over ``axes``, and what ``standardise_gradient`` needs: the factor."""
    centred = x - x.mean(axes, keepdims=True)
    factor = 1 / device.xp.sqrt((centred * centred).mean(axes, keepdims=True) + eps)
    return centred * factor, factor


@operation(widens=True)
def standardise_gradient(device: Device, dy: Array, y: Array, factor: Array, axes: Axes) -> Array:
    """Return dL/dx from dL/dy and what ``standardise`` returned."""
    along = (dy * y).mean(axes, keepdims=True)
    return factor * (dy - dy.mean(axes, keepdims=True) - y * along)


@operation()
def update_running_statistics(
    device: Device, mean: Array, var: Array, x: Array, axes: Axes, count: int, momentum: float
) -> None:
    """Move running values, in place, towards the batch's; the variance is the unbiased one, as in PyTorch."""
    batch_mean = x.mean(axes, dtype=mean.dtype)
    batch_var = x.var(axes, dtype=var.dtype) * (count / (count - 1))
    for running, now in ((mean, batch_mean), (var, batch_var)):
        running[...] = (1 - momentum) * running + momentum * now
