"""Matrix products (float32) in parts on the compiled kernels' threads, each part by the BLAS; registered before NumPy's."""

from __future__ import annotations

from gpucnn.backend import ops
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.cpu.native import FLOAT
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements

WORTH = 2.5e6
"""Floating-point operations from which a product is cut into parts."""


def _serves(device: CpuDevice, a: Array, b: Array) -> bool:
    """Whether it is a large product of float32 matrices whose rows or columns are contiguous."""
    if device.kernels is None or device.sgemm is None or a.ndim != 2 or b.ndim != 2 or 2 * a.size * b.shape[1] < WORTH:
        return False
    return a.dtype == b.dtype == FLOAT and a.shape[1] == b.shape[0] and _is_dense(a) and _is_dense(b)


def _is_dense(a: Array) -> bool:
    return bool((a.flags.c_contiguous or a.flags.f_contiguous) and a.flags.aligned)


@implements(ops.matmul, on="cpu", when=_serves)
def matmul(device: CpuDevice, a: Array, b: Array) -> Array:
    return product(device, a, b, None)


def _serves_layer(device: CpuDevice, x: Array, w: Array, b: Array | None) -> bool:
    return _serves(device, x, w.T) and (b is None or b.dtype == FLOAT)


@implements(ops.linear, on="cpu", when=_serves_layer)
def linear(device: CpuDevice, x: Array, w: Array, b: Array | None) -> Array:
    return product(device, x, w.T, b)


def product(device: CpuDevice, a: Array, b: Array, bias: Array | None) -> Array:
    """Return a (M, K) @ b (K, N) + bias (N,); what is batch-last comes out batch-last."""
    address, wide = device.sgemm  # type: ignore[misc]
    transposed = not a.flags.c_contiguous and b.flags.f_contiguous
    if transposed:
        a, b = b.T, a.T
    (M, K), N = a.shape, b.shape[1]
    y = device.workspace.empty((M, N), a.dtype)
    if bias is not None and not bias.flags.c_contiguous:
        bias = bias.copy()
    device.kernels.matmul(address, wide, M, N, K, a, b, transposed, bias, y, device.threads)
    return y.T if transposed else y
