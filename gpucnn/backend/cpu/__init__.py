"""NumPy on the CPU: its device, and NumPy's own fast ways to do what the references in ``ops`` say."""

# They announce their implementations, which are tried in this order: first the compiled ones.
from gpucnn.backend.cpu import native, native_elementwise  # isort: skip
from gpucnn.backend.cpu import conv, data, fused, linear, optim, pool
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.registry import register

register("cpu", lambda index: CpuDevice(), CpuDevice)

__all__ = ["CpuDevice", "conv", "data", "fused", "linear", "native", "native_elementwise", "optim", "pool"]
