"""Convolution and what follows it, ReLU with 2x2 max-pooling or another activation, as one operation."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.geometry import Window
from gpucnn.backend.ops.activation import hardswish, limited_line, relu
from gpucnn.backend.ops.conv import conv2d, conv2d_input_gradient, conv2d_weight_gradient
from gpucnn.backend.ops.pool import max_pool2d, max_pool2d_gradient

PAIRS = Window((2, 2), (2, 2))
"""The window of 2x2 pooling."""

DEAD = 4
"""Stored instead of the argmax where the ReLU output is 0: no pixel of the window receives a gradient."""


@operation(widens=True)
def conv2d_relu(device: Device, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    """Return relu(conv2d(x, w, b))."""
    return relu(device, conv2d(device, x, w, b, window, groups))


@operation()
def conv2d_hard(
    device: Device, x: Array, w: Array, b: Array | None, window: Window, groups: int, activation: str,
    factor: float, shift: float,
) -> Array:  # fmt: skip
    """Return the "hardswish" or "hardsigmoid" (``limited_line``) of conv2d(x, w, b), with their two numbers."""
    function = hardswish if activation == "hardswish" else limited_line
    return function(device, conv2d(device, x, w, b, window, groups), factor, shift)


@operation(widens=True)
def conv2d_relu_max_pool2d(
    device: Device, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> tuple[Array, Array | None]:
    """Return relu(max_pool2d(conv2d(x, w, b), 2)), and the indices that ``conv2d_relu_max_pool2d_gradients`` takes.

    ReLU commutes with the maximum. After pooling it touches a quarter of the elements.
    """
    y, indices = max_pool2d(device, conv2d(device, x, w, b, window, groups), PAIRS, needs_indices)
    y = relu(device, y)
    return y, None if indices is None else device.xp.where(y > 0, indices, indices.dtype.type(DEAD))


@operation(widens=True)
def conv2d_relu_max_pool2d_gradients(
    device: Device, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    requires_grad: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """Return dL/dx, dL/dw, dL/db. ``requires_grad``: whether the images, and whether the parameters, require a gradient."""
    N, F = x.shape[0], w.shape[0]
    between = max_pool2d_gradient(device, dy, indices, (N, F, *window.output_size(*x.shape[2:])), PAIRS)
    dx = conv2d_input_gradient(device, between, w, x.shape, window, groups) if requires_grad[0] else None
    if not requires_grad[1]:
        return dx, None, None
    return (dx, *conv2d_weight_gradient(device, x, between, w.shape, window, groups))
