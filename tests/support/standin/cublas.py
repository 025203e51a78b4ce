"""cuBLAS for the stand-in: a library with the real functions' prototypes, called by ctypes as the real one is.

It refuses what goes wrong with the real one: memory that is not the device's or too short, another stream than the current
one, no workspace since the stream was set, a handle of another device, a handle that is made while a stream captures, types
that do not go together. The reason is written to standard error; the caller gets cuBLAS's status.
"""

import ctypes
import functools
import subprocess
import sys
import tempfile
import types
from ctypes import CFUNCTYPE, POINTER, c_int, c_longlong, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import kernels_on_cpu
import numpy as np

from . import addresses, capture, devices
from .counters import launches, streams

SOURCE = Path(__file__).with_name("cublas.c")
SUCCESS, INVALID_VALUE, NOT_SUPPORTED = 0, 7, 15
# Data type, type of the computation: dtype, type of the scalars, whether factors are rounded to TF32.
KINDS: dict[tuple[int, int], tuple[str, Any, bool]] = {
    (0, 68): ("float32", ctypes.c_float, False), (0, 77): ("float32", ctypes.c_float, True),
    (1, 70): ("float64", ctypes.c_double, False),
}  # fmt: skip
_GEMM = CFUNCTYPE(
    c_int, c_void_p, *[c_int] * 5, c_void_p, *[c_void_p, c_int, c_int, c_longlong] * 2, c_void_p,
    *[c_void_p, c_int, c_int, c_longlong], c_int, c_int, c_int,
)  # fmt: skip


class _Handle:
    def __init__(self) -> None:
        self.device = devices.current()
        self.stream: int | None = 0
        self.workspace: np.ndarray[Any, Any] | None = None


_handles: dict[int, _Handle] = {}


def _create(handle: Any) -> int:
    if capture.current.graph is not None:
        return _refuse("a handle is made while a stream captures", INVALID_VALUE)
    number = len(_handles) + 1
    _handles[number] = _Handle()
    handle[0] = number
    return SUCCESS


def _set_stream(handle: int, stream: int | None) -> int:
    _handles[handle].stream, _handles[handle].workspace = stream or 0, None
    return SUCCESS


def _set_workspace(handle: int, workspace: int, size: int) -> int:
    try:
        _handles[handle].workspace = addresses.view(workspace, size, "uint8", devices.current())
    except ValueError as error:
        return _refuse(str(error), INVALID_VALUE)
    return SUCCESS


def _gemm(
    handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int, a: int, a_type: int, lda: int, stride_a: int,
    b: int, b_type: int, ldb: int, stride_b: int, beta: int, c: int, c_type: int, ldc: int, stride_c: int, count: int,
    compute: int, algorithm: int,
) -> int:  # fmt: skip
    from .cuda import _current

    owner = _handles[handle]
    if (a_type, compute) not in KINDS or not a_type == b_type == c_type:
        return _refuse(f"types {a_type}, {b_type}, {c_type} computed in {compute}", NOT_SUPPORTED)
    if owner.stream != _current.stream.ptr or owner.workspace is None or owner.device != devices.current():
        return _refuse("not the current stream, no workspace of one's own, or another device", INVALID_VALUE)
    dtype, scalar, rounds = KINDS[a_type, compute]
    sizes = ((m, k) if transa == 0 else (k, m)), ((k, n) if transb == 0 else (n, k)), (m, n)
    try:
        left, right, result = (
            _matrices(pointer, *size, lead, stride, count, dtype)
            for pointer, size, lead, stride in zip(
                (a, b, c), sizes, (lda, ldb, ldc), (stride_a, stride_b, stride_c), strict=True
            )
        )
    except ValueError as error:
        return _refuse(str(error), INVALID_VALUE)
    factor, kept = (scalar.from_address(one).value for one in (alpha, beta))
    launches.note("gemm")

    def multiply() -> None:
        first, second = (_in_tf32(one) if rounds else one for one in (left, right))
        first, second = (first.swapaxes(1, 2) if transa else first), (second.swapaxes(1, 2) if transb else second)
        with np.errstate(all="ignore"):
            product = factor * (first @ second)
            result[...] = product if kept == 0 else product + kept * result

    capture.do(multiply)
    return SUCCESS


def _matrices(pointer: int, rows: int, columns: int, lead: int, stride: int, count: int, dtype: str) -> Any:
    """Return a batch of matrices that are stored by columns, as a view (count, rows, columns)."""
    if lead < rows or min(rows, columns, count) < 1:
        raise ValueError(f"{count} matrices of {rows} x {columns} with the leading dimension {lead}")
    memory = addresses.view(pointer, (count - 1) * stride + (columns - 1) * lead + rows, dtype, devices.current())
    streams.access(memory)
    size = memory.itemsize
    return np.lib.stride_tricks.as_strided(memory, (count, rows, columns), (stride * size, size, lead * size))


def _in_tf32(values: Any) -> Any:
    """Return float32 numbers with 10 bits of mantissa, rounded to the nearest, ties away from zero."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _refuse(why: str, status: int) -> int:
    print(f"cuBLAS: {why}", file=sys.stderr)
    return status


@functools.cache
def path() -> str:
    """Return the library's file."""
    folder = tempfile.TemporaryDirectory()
    file = Path(folder.name, "libcublas.so")
    command = (kernels_on_cpu.compiler(), "-x", "c", "-shared", "-fPIC", "-O1", "-o", str(file), str(SOURCE))
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(file))
    for name, kind, function in (
        ("standin_create", CFUNCTYPE(c_int, POINTER(c_void_p)), _create),
        ("standin_stream", CFUNCTYPE(c_int, c_void_p, c_void_p), _set_stream),
        ("standin_workspace", CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t), _set_workspace),
        ("standin_gemm", _GEMM, _gemm),
    ):
        callback = kind(function)
        _kept.append(callback)
        c_void_p.in_dll(library, name).value = ctypes.cast(callback, c_void_p).value
    _kept.append(folder)
    return str(file)


_kept: list[Any] = []


class PathfinderModule(types.ModuleType):
    """cuda.pathfinder, which finds this library instead of NVIDIA's."""

    def __init__(self) -> None:
        super().__init__("cuda.pathfinder", "The stand-in for cuda.pathfinder; see tests/support/standin/cublas.py.")

    def load_nvidia_dynamic_lib(self, libname: str) -> Any:
        if libname != "cublas":
            raise NotImplementedError(f"the stand-in has no library {libname}")
        return types.SimpleNamespace(abs_path=path())
