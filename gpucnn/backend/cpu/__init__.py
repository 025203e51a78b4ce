"""NumPy on the CPU: its device, and NumPy's own fast ways to do what the references in ``ops`` say."""

from gpucnn.backend.cpu import conv, data, fused, linear, optim, pool  # they announce their implementations
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.registry import register

register("cpu", lambda index: CpuDevice(), CpuDevice)

__all__ = ["CpuDevice", "conv", "data", "fused", "linear", "optim", "pool"]
