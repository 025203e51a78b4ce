"""Arithmetic and comparison, element by element, with NumPy's broadcasting."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation


@operation()
def add(device: Device, a: Array, b: Array) -> Array:
    return a + b


@operation()
def subtract(device: Device, a: Array, b: Array) -> Array:
    return a - b


@operation()
def multiply(device: Device, a: Array, b: Array) -> Array:
    return a * b


@operation()
def divide(device: Device, a: Array, b: Array) -> Array:
    return a / b


@operation()
def divide_gradient(device: Device, dy: Array, y: Array, b: Array) -> Array:
    """Return dL/db of y = a / b."""
    return -dy * y / b


@operation()
def negative(device: Device, a: Array) -> Array:
    return -a


@operation()
def power(device: Device, a: Array, b: Array) -> Array:
    return a**b


@operation()
def power_gradient(device: Device, dy: Array, y: Array, a: Array, b: Array) -> Array:
    """Return dL/da of y = a^b: the derivative of a^0 is 0, also at a = 0."""
    xp = device.xp
    return dy * xp.where(b == 0, xp.zeros_like(y), b * a ** xp.where(b == 0, xp.ones_like(b), b - 1))


@operation()
def exponent_gradient(device: Device, dy: Array, y: Array, a: Array) -> Array:
    """Return dL/db of y = a^b, which at a = 0 does not change with b > 0."""
    xp = device.xp
    return dy * y * xp.log(xp.where(a == 0, xp.ones_like(a), a))


@operation()
def exp(device: Device, a: Array) -> Array:
    return device.xp.exp(a)


@operation()
def log(device: Device, a: Array) -> Array:
    return device.xp.log(a)


@operation()
def sqrt(device: Device, a: Array) -> Array:
    return device.xp.sqrt(a)


@operation()
def sqrt_gradient(device: Device, dy: Array, y: Array) -> Array:
    return dy / (2 * y)


@operation()
def absolute(device: Device, a: Array) -> Array:
    return device.xp.abs(a)


@operation()
def absolute_gradient(device: Device, dy: Array, a: Array) -> Array:
    return dy * device.xp.sign(a)


@operation()
def minimum(device: Device, a: Array, b: Array) -> Array:
    return device.xp.minimum(a, b)


@operation()
def clip(device: Device, a: Array, low: float, high: float) -> Array:
    return device.xp.clip(a, low, high)


@operation()
def is_finite(device: Device, a: Array) -> Array:
    """Return where the elements are neither infinite nor NaN."""
    return device.xp.asarray(device.xp.isfinite(a))


@operation()
def add_sign(device: Device, g: Array, p: Array, factor: float) -> Array:
    """Return g + factor sign(p): the gradient with an L1 penalty."""
    return g + factor * device.xp.sign(p)


@operation()
def add_scaled(device: Device, g: Array, p: Array, factor: float) -> Array:
    """Return g + factor p: the gradient with an L2 penalty."""
    return g + factor * p


# --- comparison ------------------------------------------------------------------------------------------------------


@operation()
def equal(device: Device, a: Any, b: Any) -> Array:
    return a == b


@operation()
def not_equal(device: Device, a: Any, b: Any) -> Array:
    return a != b


@operation()
def less(device: Device, a: Any, b: Any) -> Array:
    return a < b


@operation()
def less_equal(device: Device, a: Any, b: Any) -> Array:
    return a <= b


@operation()
def greater(device: Device, a: Any, b: Any) -> Array:
    return a > b


@operation()
def greater_equal(device: Device, a: Any, b: Any) -> Array:
    return a >= b
