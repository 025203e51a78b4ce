"""The CPU device (NumPy), and faster CPU implementations of the operations in ``ops``."""

# Importing registers the implementations. They are tried in this order, the compiled ones first.
from gpucnn.backend.cpu import native, native_elementwise, native_linear  # isort: skip
from gpucnn.backend.cpu import conv, data, fused, linear, optim, pool
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.registry import register

register("cpu", lambda index: CpuDevice(), CpuDevice)

__all__ = [
    "CpuDevice", "conv", "data", "fused", "linear", "native", "native_elementwise", "native_linear", "optim",
    "pool",
]  # fmt: skip
