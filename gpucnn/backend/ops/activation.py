"""Element-wise activations and the softmax along an axis, each followed by its gradient."""

from __future__ import annotations

import math

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.ops import special


@operation()
def relu(device: Device, x: Array) -> Array:
    """Return max(x, 0); NaN stays NaN."""
    return device.xp.maximum(x, device.xp.zeros((), x.dtype))


@operation()
def relu_gradient(device: Device, dy: Array, y: Array) -> Array:
    """Return dL/dx where ``y`` is the output: dy where y > 0, else 0."""
    return device.xp.where(y > 0, dy, device.xp.zeros((), dy.dtype))


@operation()
def sigmoid(device: Device, x: Array) -> Array:
    """Return 1 / (1 + e^-x), computed from e^-|x|, which cannot overflow."""
    small = device.xp.exp(-abs(x))
    return device.xp.where(x >= 0, 1, small) / (1 + small)


@operation()
def sigmoid_gradient(device: Device, dy: Array, y: Array) -> Array:
    return dy * y * (1 - y)


@operation()
def tanh(device: Device, x: Array) -> Array:
    """Return the hyperbolic tangent."""
    return device.xp.tanh(x)


@operation()
def tanh_gradient(device: Device, dy: Array, y: Array) -> Array:
    return dy * (1 - y * y)


@operation()
def softmax(device: Device, x: Array, axis: int) -> Array:
    """Return e^x / sum(e^x) along ``axis``."""
    y = device.xp.exp(x - x.max(axis, keepdims=True))
    y /= y.sum(axis, keepdims=True)
    return y


@operation()
def softmax_gradient(device: Device, dy: Array, y: Array, axis: int) -> Array:
    return y * (dy - (dy * y).sum(axis, keepdims=True))


@operation()
def log_softmax(device: Device, x: Array, axis: int) -> Array:
    """Return log(softmax(x)) along ``axis``, accurate where the softmax is nearly 0."""
    shifted = x - x.max(axis, keepdims=True)
    return shifted - device.xp.log(device.xp.exp(shifted).sum(axis, keepdims=True))


@operation()
def log_softmax_gradient(device: Device, dy: Array, y: Array, axis: int) -> Array:
    return dy - device.xp.exp(y) * dy.sum(axis, keepdims=True)


@operation()
def leaky_relu(device: Device, x: Array, negative_slope: float) -> tuple[Array, Array]:
    """Return x where x > 0, else negative_slope x; and the slope of each element."""
    xp = device.xp
    slope = xp.where(x > 0, xp.ones((), x.dtype), xp.asarray(negative_slope, x.dtype))
    return x * slope, slope


@operation()
def elu(device: Device, x: Array, alpha: float, scale: float) -> tuple[Array, Array]:
    """Return scale (x where x > 0, else alpha (e^x - 1)), and alpha (e^min(x, 0) - 1) for the gradient."""
    xp = device.xp
    below = alpha * xp.expm1(xp.minimum(x, xp.zeros((), x.dtype)))
    return scale * xp.where(x > 0, x, below), below


@operation()
def elu_gradient(device: Device, dy: Array, x: Array, below: Array, alpha: float, scale: float) -> Array:
    return dy * scale * device.xp.where(x > 0, device.xp.ones((), x.dtype), below + alpha)


@operation()
def softplus(device: Device, x: Array, beta: float, threshold: float, needs_slope: bool) -> tuple[Array, Array | None]:
    """Return log(1 + e^t) / beta, t = beta x, or x where t > threshold; and its slope if ``needs_slope``.

    log(1 + e^t) = max(t, 0) + log(1 + e^-|t|), which cannot overflow.
    """
    xp, t = device.xp, beta * x
    small = xp.exp(-abs(t))
    smooth = (xp.maximum(t, xp.zeros((), x.dtype)) + xp.log1p(small)) / beta
    y = xp.where(t > threshold, x, smooth)
    if not needs_slope:
        return y, None
    one = xp.ones((), x.dtype)
    return y, xp.where(t > threshold, one, xp.where(t >= 0, one, small) / (1 + small))


@operation()
def hardsigmoid(device: Device, x: Array) -> Array:
    """Return x / 6 + 1/2, clipped to [0, 1]."""
    return device.xp.clip(x / 6 + 0.5, 0, 1)


@operation()
def hardsigmoid_gradient(device: Device, dy: Array, x: Array) -> Array:
    return device.xp.where((x > -3) & (x < 3), dy / 6, device.xp.zeros((), x.dtype))


@operation()
def hardtanh_gradient(device: Device, dy: Array, y: Array, low: float, high: float) -> Array:
    """Return dL/dx where ``y`` is x clipped to [low, high]: 0 where it is at an end, else dy."""
    return device.xp.where((y <= low) | (y >= high), device.xp.zeros((), dy.dtype), dy)


@operation()
def limited_line(device: Device, x: Array, factor: float, shift: float) -> Array:
    """Return factor x + shift, clipped to [0, 1]: ONNX's HardSigmoid."""
    y = x * factor
    y += shift
    return device.xp.clip(y, 0, 1)


@operation()
def hardswish(device: Device, x: Array, factor: float, shift: float) -> Array:
    """Return factor x clip(x + 3, 0, 6) / 6 + shift, in one piece of memory. Source: Howard et al. 2019."""
    xp = device.xp
    y = x + 3
    xp.maximum(y, 0, out=y)
    xp.minimum(y, 6, out=y)
    y *= x
    y *= factor / 6
    if shift:
        y += shift
    return y


@operation(widens=True)
def erf(device: Device, x: Array) -> Array:
    """Return the error function of each element."""
    return special.erf(device.xp, x)


@operation()
def erf_gradient(device: Device, dy: Array, x: Array) -> Array:
    return dy * (2 / math.sqrt(math.pi) * device.xp.exp(-x * x))


@operation()
def gelu(device: Device, x: Array) -> tuple[Array, Array]:
    """Return x Phi(x), Phi being the normal cumulative distribution function, and Phi(x) for the gradient."""
    cumulative = 0.5 * (1 + erf(device, x / math.sqrt(2)))
    return x * cumulative, cumulative


@operation()
def gelu_gradient(device: Device, dy: Array, x: Array, cumulative: Array) -> Array:
    return dy * (cumulative + x * device.xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


@operation()
def gelu_tanh(device: Device, x: Array) -> tuple[Array, Array]:
    """Return the tanh approximation of ``gelu``, and its tanh for the gradient."""
    k = math.sqrt(2 / math.pi)
    t = device.xp.tanh(k * (x + 0.044715 * x * x * x))
    return 0.5 * x * (1 + t), t


@operation()
def gelu_tanh_gradient(device: Device, dy: Array, x: Array, t: Array) -> Array:
    k, slope = math.sqrt(2 / math.pi), 1 - t * t
    inner = device.xp.where(slope == 0, slope, x * slope * k * (1 + 3 * 0.044715 * x * x))  # x * x may be infinite
    return dy * 0.5 * (1 + t + inner)
