"""Element-wise arithmetic and comparison, with NumPy's broadcasting."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import array_function, operation

add = array_function("add", "Return a + b.")
subtract = array_function("subtract", "Return a - b.")
multiply = array_function("multiply", "Return a b.")
divide = array_function("divide", "Return a / b.")
negative = array_function("negative", "Return -a.")
exp = array_function("exp", "Return e to the a.")
log = array_function("log", "Return the natural logarithm of a.")
sqrt = array_function("sqrt", "Return the square root of a.")
absolute = array_function("absolute", "Return |a|.")
minimum = array_function("minimum", "Return the smaller one of a and b.")
equal = array_function("equal", "Return whether a = b.")
not_equal = array_function("not_equal", "Return whether a != b.")
less = array_function("less", "Return whether a < b.")
less_equal = array_function("less_equal", "Return whether a <= b.")
greater = array_function("greater", "Return whether a > b.")
greater_equal = array_function("greater_equal", "Return whether a >= b.")
logical_and = array_function("logical_and", "Return whether a and b.")
logical_or = array_function("logical_or", "Return whether a or b.")
logical_xor = array_function("logical_xor", "Return whether one of a and b.")
logical_not = array_function("logical_not", "Return whether not a.")
floor = array_function("floor", "Return the largest whole number up to a.")
ceil = array_function("ceil", "Return the smallest whole number from a on.")
nearest_even = array_function("nearest_even", "Return the nearest whole number, of two the even one.", "rint")
sign = array_function("sign", "Return -1, 0 or 1.")
is_nan = array_function("is_nan", "Return where the elements are NaN.", "isnan")
floor_divide = array_function("floor_divide", "Return the largest whole number up to a / b.")
remainder = array_function("remainder", "Return a - b floor(a / b), which has the sign of b.")
fmod = array_function("fmod", "Return the remainder of a / b that has the sign of a.")
sin = array_function("sin", "Return the sine of a.")
cos = array_function("cos", "Return the cosine of a.")


@operation()
def divide_gradient(device: Device, dy: Array, y: Array, b: Array) -> Array:
    """Return dL/db of y = a / b."""
    return -dy * y / b


@operation()
def power(device: Device, a: Array, b: Array) -> Array:
    """Return a to the b. The ``**`` operator computes squares by multiplication."""
    return a**b


@operation()
def power_gradient(device: Device, dy: Array, y: Array, a: Array, b: Array) -> Array:
    """Return dL/da of y = a^b. The derivative of a^0 is 0, even at a = 0."""
    xp = device.xp
    return dy * xp.where(b == 0, xp.zeros_like(y), b * a ** xp.where(b == 0, xp.ones_like(b), b - 1))


@operation()
def exponent_gradient(device: Device, dy: Array, y: Array, a: Array) -> Array:
    """Return dL/db of y = a^b. It is 0 at a = 0 for b > 0, where y does not depend on b."""
    xp = device.xp
    return dy * y * xp.log(xp.where(a == 0, xp.ones_like(a), a))


@operation()
def sqrt_gradient(device: Device, dy: Array, y: Array) -> Array:
    return dy / (2 * y)


@operation()
def absolute_gradient(device: Device, dy: Array, a: Array) -> Array:
    return dy * device.xp.sign(a)


@operation()
def clip(device: Device, a: Array, low: float | None, high: float | None) -> Array:
    """Return the elements limited to [low, high]; None is no limit."""
    return device.xp.clip(a, low, high)


@operation()
def clip_gradient(device: Device, dy: Array, a: Array, low: float | None, high: float | None) -> Array:
    """Return dL/da of a clipped to [low, high]: dy where it was not clipped."""
    return dy * ((a >= low) & (a <= high))


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
