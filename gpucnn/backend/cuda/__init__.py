"""The CUDA device (CuPy), and CUDA implementations of the operations in ``ops``. CuPy is imported lazily."""

from functools import partial

from gpucnn.backend.cuda import (
    activation,
    blas,
    columns,
    conv,
    cudnn,
    data,
    graph,
    indexing,
    linear,
    loss,
    norm,
    optim,
    pool,
    prefetch,
    proof,
    tuned,
    wide_conv,
)
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.registry import register


def _make(index: int) -> CudaDevice:
    device = CudaDevice(index)
    device.proof = partial(proof.prove, device)
    device.half_proof = partial(proof.prove_half, device)
    device.proof(False)
    return device


register("cuda", _make, CudaDevice)

__all__ = [
    "CudaDevice",
    "activation",
    "blas",
    "columns",
    "conv",
    "cudnn",
    "data",
    "graph",
    "indexing",
    "linear",
    "loss",
    "norm",
    "optim",
    "pool",
    "prefetch",
    "proof",
    "tuned",
    "wide_conv",
]
