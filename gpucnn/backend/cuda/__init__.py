"""CUDA through CuPy: its device, and our kernels for what the references in ``ops`` say. CuPy is imported late."""

from gpucnn.backend.cuda import activation, conv, data, graph, linear, loss, norm, optim, pool, prefetch
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.registry import register

register("cuda", CudaDevice, CudaDevice)

__all__ = [
    "CudaDevice",
    "activation",
    "conv",
    "data",
    "graph",
    "linear",
    "loss",
    "norm",
    "optim",
    "pool",
    "prefetch",
]
