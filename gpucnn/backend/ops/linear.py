"""Matrix products and the fully connected layer."""

from __future__ import annotations

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.ops.reduction import sum_of


@operation(widens=True)
def matmul(device: Device, a: Array, b: Array) -> Array:
    """Return the matrix product, batched over leading axes as in ``numpy.matmul``."""
    return device.xp.matmul(a, b)


@operation(widens=True)
def linear(device: Device, x: Array, w: Array, b: Array | None) -> Array:
    """Return y (M, O) = x w^T + b for rows x (M, I), w (O, I), b (O,)."""
    y = matmul(device, x, w.T)
    if b is not None:
        y += b
    return y


@operation(widens=True)
def linear_parameter_gradients(device: Device, x: Array, dy: Array) -> tuple[Array, Array]:
    """Return dL/dw (O, I) and dL/db (O,) from x (M, I) and dL/dy (M, O)."""
    return matmul(device, dy.T, x), sum_of(dy, 0, keepdims=False)
