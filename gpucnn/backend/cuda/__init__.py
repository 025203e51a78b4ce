"""The CUDA device (CuPy), and CUDA implementations of the operations in ``ops``. CuPy is imported lazily."""

from gpucnn.backend.cuda import activation, conv, data, graph, indexing, linear, loss, norm, optim, pool, prefetch
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.registry import register

register("cuda", CudaDevice, CudaDevice)

__all__ = [
    "CudaDevice",
    "activation",
    "conv",
    "data",
    "graph",
    "indexing",
    "linear",
    "loss",
    "norm",
    "optim",
    "pool",
    "prefetch",
]
