"""Matrix products and ReLU on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements


def _is_plain(device: CpuDevice, a: Array, b: Array) -> bool:
    """Whether it is the product of two floating matrices."""
    matrices = a.ndim == 2 and b.ndim == 2 and a.shape[1] == b.shape[0]
    return bool(matrices and a.dtype == b.dtype and a.dtype.kind == "f")


@implements(ops.matmul, on="cpu", when=_is_plain)
def matmul(device: CpuDevice, a: Array, b: Array) -> Array:
    """What is batch-last comes out batch-last."""
    if not a.flags.c_contiguous and a.flags.f_contiguous and b.flags.f_contiguous:
        return matmul(device, b.T, a.T).T
    return np.matmul(a, b, out=device.workspace.empty((a.shape[0], b.shape[1]), a.dtype))


def _is_plain_layer(device: CpuDevice, x: Array, w: Array, b: Array | None) -> bool:
    return _is_plain(device, x, w.T)


@implements(ops.linear, on="cpu", when=_is_plain_layer)
def linear(device: CpuDevice, x: Array, w: Array, b: Array | None) -> Array:
    y = matmul(device, x, w.T)
    if b is not None:
        y += b
    return y


@implements(ops.relu, on="cpu")
def relu(device: CpuDevice, x: Array) -> Array:
    return _elementwise(device, lambda a, out: np.maximum(a, 0, out=out), x)


@implements(ops.relu_gradient, on="cpu")
def relu_gradient(device: CpuDevice, dy: Array, y: Array) -> Array:
    return _elementwise(device, _where_positive, dy, y)


def _where_positive(dy: Array, y: Array, out: Array) -> None:
    """out = dy where y > 0, else 0, by bits: dy * (y > 0) makes NaN of infinity, and a choice takes ten times as long."""
    bits = np.dtype(f"i{dy.itemsize}")
    np.bitwise_and(dy.view(bits), np.negative((y > 0).view(np.int8)), out=out.view(bits))


def _elementwise(device: CpuDevice, function: Callable[..., object], *arrays: Array) -> Array:
    """Return ``function`` of arrays of one shape, in the first one's memory order."""
    first = arrays[0]
    if all(array.flags.c_contiguous for array in arrays):
        y = device.workspace.empty(first.shape, first.dtype)
        function(*arrays, y)
        return y
    order = sorted(range(first.ndim), key=lambda axis: (-abs(first.strides[axis]), axis))
    ordered = [array.transpose(order) for array in arrays]
    y = device.workspace.empty(ordered[0].shape, first.dtype)
    result = y.transpose(sorted(range(first.ndim), key=order.__getitem__))
    function(*ordered, y)
    return result
