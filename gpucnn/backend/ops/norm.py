"""Normalisation to mean 0 and variance 1 over some axes, and the running statistics of batch normalisation."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation

Axes = tuple[int, ...]


@operation(widens=True, keeps=(1,))
def standardise(device: Device, x: Array, axes: Axes, eps: float) -> tuple[Array, Array]:
    """Return (x - mean) / sqrt(variance + eps) over ``axes``, and what ``standardise_gradient`` needs: the factor."""
    centred = x - x.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    if device.name != "cpu" or device.xp.isfinite(variance).all():  # checking on a GPU would synchronise
        factor = 1 / device.xp.sqrt(variance + eps)
        return centred * factor, factor
    return _standardise_scaled(device, x, axes, eps)


def _standardise_scaled(device: Device, x: Array, axes: Axes, eps: float) -> tuple[Array, Array]:
    """``standardise`` for values whose squares may overflow: divide by the largest magnitude first."""
    xp = device.xp
    largest = abs(x).max(axes, keepdims=True)
    scale = xp.where(largest > 1, largest, xp.ones((), x.dtype))
    scaled = x / scale
    centred = scaled - scaled.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True) + eps / scale / scale
    factor = 1 / xp.sqrt(xp.where(variance == 0, xp.ones((), x.dtype), variance))
    return centred * factor, factor / scale


@operation(widens=True)
def standardise_gradient(device: Device, dy: Array, y: Array, factor: Array, axes: Axes) -> Array:
    """Return dL/dx from dL/dy and what ``standardise`` returned."""
    along = (dy * y).mean(axes, keepdims=True)
    return factor * (dy - dy.mean(axes, keepdims=True) - y * along)


@operation()
def update_running_statistics(
    device: Device, mean: Array, var: Array, x: Array, axes: Axes, count: int, momentum: float
) -> None:
    """Update running mean and variance in place from the batch; the variance is unbiased, as in PyTorch."""
    batch_mean = x.mean(axes, dtype=mean.dtype)
    batch_var = x.var(axes, dtype=var.dtype) * (count / (count - 1))
    for running, now in ((mean, batch_mean), (var, batch_var)):
        running[...] = (1 - momentum) * running + momentum * now
