"""Normalisation to mean 0 and variance 1: of channels over a batch, with scale and shift, and over any axes."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation

Axes = tuple[int, ...]


@operation(widens=True, keeps=(1, 2, 3))
def batch_norm(
    device: Device, x: Array, weight: Array | None, bias: Array | None, residual: Array | None, eps: float, relu: bool
) -> tuple[Array, Array, Array, Array]:
    """Return y of (N, C, ...) images, and of each channel (C,): mean, variance, and factor 1 / sqrt(variance + eps).

    y = weight (x - mean) factor + bias, then plus ``residual``, then its ReLU where ``relu``.
    Source: Ioffe & Szegedy 2015.
    """
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes)
    centred = x - by_channel(mean, x)
    variance = (centred * centred).mean(axes)
    if device.name != "cpu" or device.xp.isfinite(variance).all():  # checking on a GPU would synchronise
        factor = 1 / device.xp.sqrt(variance + eps)
    else:
        normal, factor, mean = _normalised_scaled(device, x, axes, eps)
        factor, mean = factor.reshape(-1), mean.reshape(-1)
        return scaled(device, normal, weight, bias, residual, relu), mean, variance, factor
    return scaled(device, centred * by_channel(factor, x), weight, bias, residual, relu), mean, variance, factor


@operation(widens=True)
def batch_norm_gradients(
    device: Device, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    needs_residual: bool,
    training: bool = True,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """Return dL/dx, dL/dweight, dL/dbias and, where needed, dL/dresidual. y: the output if ReLU was applied, else None.

    training: whether mean and factor are the batch's own, which depend on x; otherwise they were given.
    """
    axes = (0, *range(2, x.ndim))
    if y is not None:
        dy = dy * (y > 0)
    normal = (x - by_channel(mean, x)) * by_channel(factor, x)
    dweight, dbias = (dy * normal).sum(axes), dy.sum(axes)
    scale = factor if weight is None else factor * weight
    if not training:
        return by_channel(scale, x) * dy, dweight, dbias, dy
    count = x.size // x.shape[1]
    along, even = by_channel(dweight, x) / count, by_channel(dbias, x) / count
    return by_channel(scale, x) * (dy - even - normal * along), dweight, dbias, dy


@operation(widens=True, keeps=(1,))
def batch_norm_inference(
    device: Device, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, eps: float, relu: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """Return y of ``batch_norm`` for a given mean and variance of each channel (C,), such as the running ones; factor."""
    factor = 1 / device.xp.sqrt(var + eps)
    normal = (x - by_channel(mean, x)) * by_channel(factor, x)
    return scaled(device, normal, weight, bias, residual, relu), factor


@operation()
def folded_batch_norm(
    device: Device, w: Array, b: Array | None, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    eps: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Return filters (F, C, KH, KW) and bias (F,) of one convolution that equals that by ``w`` and ``b`` with its norm."""
    scale = 1 / device.xp.sqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = (0 if b is None else b) - mean
    return w * scale.reshape(-1, 1, 1, 1), shift * scale + (0 if bias is None else bias)


def by_channel(values: Array, x: Array) -> Array:
    """Return one number for each channel (C,) in the shape that is broadcast over images ``x``."""
    return values.reshape(1, -1, *(1,) * (x.ndim - 2))


def scaled(
    device: Device, x: Array, weight: Array | None, bias: Array | None, residual: Array | None, relu: bool
) -> Array:
    """Return weight x + bias of normalised channels, plus ``residual``, or of that the ReLU."""
    if weight is not None:
        x = x * by_channel(weight, x)
    if bias is not None:
        x = x + by_channel(bias, x)
    if residual is not None:
        x = x + residual
    return device.xp.maximum(x, 0) if relu else x


@operation()
def update_running_statistics(
    device: Device, running_mean: Array, running_var: Array, mean: Array, var: Array, count: int, momentum: float
) -> None:
    """Update running statistics (C,) in place by those of ``count`` values; the variance is unbiased, as in PyTorch."""
    for running, now in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        running[...] = (1 - momentum) * running + momentum * now


@operation(widens=True, keeps=(1,))
def normalise(device: Device, x: Array, axes: Axes, eps: float) -> tuple[Array, Array]:
    """Return (x - mean) / sqrt(variance + eps) over ``axes``, and what ``normalise_gradient`` needs: the factor."""
    centred = x - x.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    if device.name != "cpu" or device.xp.isfinite(variance).all():  # checking on a GPU would synchronise
        factor = 1 / device.xp.sqrt(variance + eps)
        return centred * factor, factor
    y, factor, _ = _normalised_scaled(device, x, axes, eps)
    return y, factor


def _normalised_scaled(device: Device, x: Array, axes: Axes, eps: float) -> tuple[Array, Array, Array]:
    """Return result, factor and mean for values whose squares may overflow: divide by the largest magnitude first."""
    xp = device.xp
    largest = abs(x).max(axes, keepdims=True)
    scale = xp.where(largest > 1, largest, xp.ones((), x.dtype))
    scaled = x / scale
    mean = scaled.mean(axes, keepdims=True)
    centred = scaled - mean
    variance = (centred * centred).mean(axes, keepdims=True) + eps / scale / scale
    factor = 1 / xp.sqrt(xp.where(variance == 0, xp.ones((), x.dtype), variance))
    return centred * factor, factor / scale, mean * scale


@operation(widens=True)
def normalise_gradient(device: Device, dy: Array, y: Array, factor: Array, axes: Axes) -> Array:
    """Return dL/dx from dL/dy and what ``normalise`` returned."""
    along = (dy * y).mean(axes, keepdims=True)
    return factor * (dy - dy.mean(axes, keepdims=True) - y * along)
