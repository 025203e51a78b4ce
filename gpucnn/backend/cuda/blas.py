"""Matrix products by cuBLAS, through a handle of our own.

CuPy's wrapper of cuBLAS refuses to work while a stream captures, and TF32 is a setting of the whole process there. So the
library that CuPy has loaded is called directly: a handle for each device, and for each product the current stream, the
precision, and a workspace from the current memory pool, so that captured products write to the memory of their graph.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from ctypes import POINTER, byref, c_int, c_longlong, c_size_t, c_void_p
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.errors import DeviceError

# As cublas_api.h and library_types.h have them.
OP_N, OP_T = 0, 1
KINDS = {"float32": (0, 68, ctypes.c_float), "float64": (1, 70, ctypes.c_double)}
"""By dtype: the type of the data, the type of the computation, and that of the two scalars."""
IN_TF32 = 77
DEFAULT_ALGORITHM = -1
ALLOCATION_FAILED = 3
_MATRIX = (c_void_p, c_int, c_int)  # address, type, leading dimension
_SHAPE = (c_void_p, c_int, c_int, c_int, c_int, c_int, c_void_p)  # handle, two operations, m, n, k, alpha
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (POINTER(c_void_p),),
    "cublasSetStream_v2": (c_void_p, c_void_p),
    "cublasSetWorkspace_v2": (c_void_p, c_void_p, c_size_t),
    "cublasGetProperty": (c_int, POINTER(c_int)),
    "cublasGemmEx": (*_SHAPE, *_MATRIX, *_MATRIX, c_void_p, *_MATRIX, c_int, c_int),
    "cublasGemmStridedBatchedEx": (
        *_SHAPE, *_MATRIX, c_longlong, *_MATRIX, c_longlong, c_void_p, *_MATRIX, c_longlong, c_int, c_int, c_int,
    ),
}  # fmt: skip

WORKSPACE, WORKSPACE_HOPPER = 4 << 20, 32 << 20
"""Bytes that cuBLAS asks for, before compute capability 9.0 and from it on."""
LIMIT = 2**31


def library() -> Any:
    """Return cuBLAS, as CuPy has loaded it."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    found = ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    for name, types in PROTOTYPES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = types, c_int
    return found


def call(cublas: Any, name: str, *arguments: Any) -> None:
    """Call a function of the library; MemoryError or DeviceError if it fails."""
    status = getattr(cublas, name)(*arguments)
    if status == ALLOCATION_FAILED:
        raise MemoryError(f"{name} finds no memory.")
    if status:
        raise DeviceError(f"cuBLAS: {name} failed with status {status}.")


def version() -> list[int]:
    """Return the version of cuBLAS: major, minor, patch."""
    found, cublas = [c_int() for _ in range(3)], library()
    for which, number in enumerate(found):
        call(cublas, "cublasGetProperty", which, byref(number))
    return [number.value for number in found]


class _Handle:
    """cuBLAS on one device. Threads share it, one at a time."""

    def __init__(self, device: CudaDevice) -> None:
        self._cublas, self._lock = library(), threading.Lock()
        self._pointer = c_void_p()
        self._bytes = WORKSPACE_HOPPER if int(device.xp.cuda.Device().compute_capability) >= 90 else WORKSPACE
        call(self._cublas, "cublasCreate_v2", byref(self._pointer))

    def run(self, device: CudaDevice, name: str, *arguments: Any) -> None:
        workspace = device.empty("cuBLAS", (self._bytes,), np.uint8)
        with self._lock:
            call(self._cublas, "cublasSetStream_v2", self._pointer, device.xp.cuda.get_current_stream().ptr)
            call(self._cublas, "cublasSetWorkspace_v2", self._pointer, workspace.data.ptr, self._bytes)
            call(self._cublas, name, self._pointer, *arguments)


_handles: weakref.WeakKeyDictionary[CudaDevice, _Handle] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _handle(device: CudaDevice) -> _Handle:
    with _making:
        if device not in _handles:
            _handles[device] = _Handle(device)
        return _handles[device]


def _stored(device: CudaDevice, matrix: Array) -> tuple[Array, int, int]:
    """Return a matrix, or a batch of them, how cuBLAS has to read it, and its leading dimension."""
    if not matrix.flags.c_contiguous and matrix.swapaxes(-1, -2).flags.c_contiguous:
        return matrix, OP_T, matrix.shape[-2]
    return device.contiguous(matrix)[0], OP_N, matrix.shape[-1]


def product(device: CudaDevice, a: Array, b: Array, tf32: bool = False) -> Array:
    """Return a @ b (M, N) for a (M, K) and b (K, N) of float32 or float64, or for each pair of two batches of matrices."""
    (M, K), N, batch = a.shape[-2:], b.shape[-1], a.shape[:-2]
    (a, way_a, lead_a), (b, way_b, lead_b) = _stored(device, a), _stored(device, b)
    c = device.empty("matmul", (*batch, M, N), a.dtype)
    kind, compute, scalar = KINDS[str(a.dtype)]
    if tf32 and compute == KINDS["float32"][1]:
        compute = IN_TF32
    one, zero = byref(scalar(1)), byref(scalar(0))
    # cuBLAS stores matrices by columns, so it sees the transposes: c^T = b^T a^T.
    first, second, result = (b.data.ptr, kind, lead_b), (a.data.ptr, kind, lead_a), (c.data.ptr, kind, N)
    shape = way_b, way_a, N, M, K, one
    if not batch:
        _handle(device).run(
            device, "cublasGemmEx", *shape, *first, *second, zero, *result, compute, DEFAULT_ALGORITHM
        )  # fmt: skip
    else:
        _handle(device).run(
            device, "cublasGemmStridedBatchedEx", *shape, *first, K * N, *second, M * K, zero, *result, M * N,
            math.prod(batch), compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
    return c


def _product_serves(device: CudaDevice, a: Array, b: Array) -> bool:
    """Whether cuBLAS takes this product: of two matrices, of two batches of them, or of a batch and one matrix."""
    if a.dtype != b.dtype or str(a.dtype) not in KINDS or min(a.ndim, b.ndim) < 2 or a.shape[-1] != b.shape[-2]:
        return False
    if b.ndim > 2 and a.shape[:-2] != b.shape[:-2]:
        return False
    return bool(min(a.size, b.size) > 0 and max(a.size // a.shape[-1], b.size // b.shape[-1], b.shape[-1]) < LIMIT)


@implements(ops.matmul, on="cuda", when=_product_serves)
def matmul(device: CudaDevice, a: Array, b: Array) -> Array:
    if b.ndim == 2 < a.ndim:
        rows = device.contiguous(a)[0].reshape(-1, a.shape[-1])
        return product(device, rows, b, device.in_tf32).reshape(*a.shape[:-1], b.shape[1])
    return product(device, a, b, device.in_tf32)
