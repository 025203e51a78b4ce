"""Tensors that share memory with other libraries through DLPack or the CUDA array interface."""

from __future__ import annotations

from typing import Any

from gpucnn.autograd.tensor import Tensor
from gpucnn.backend import get_backend
from gpucnn.errors import DeviceError, DTypeError

CPU, CUDA = 1, 2
"""The DLPack device types."""


def from_dlpack(x: Any) -> Tensor:
    """Return a tensor that shares the memory of ``x``: an array of PyTorch, JAX, CuPy, NumPy or another library.

    x: anything with ``__dlpack__``, or on a GPU with ``__cuda_array_interface__``; any shape, numbers or bool. It stays on
    its device. Each side sees what the other writes. The tape does not notice such changes, so make them only outside of
    forward and backward. For the other direction, pass a tensor to ``torch.from_dlpack`` or ``numpy.from_dlpack``.
    Raises DTypeError if ``x`` cannot share its memory or is read-only; DeviceError for other kinds of device.
    Source: the DLPack specification (dmlc.github.io/dlpack).

    >>> import gpucnn, numpy
    >>> array = numpy.zeros(2, numpy.float32)
    >>> shared = gpucnn.from_dlpack(array)
    >>> array[1] = 5
    >>> shared.tolist()
    [0.0, 5.0]
    """
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        kind, index = x.__dlpack_device__()
    elif hasattr(x, "__cuda_array_interface__"):
        kind, index = CUDA, 0
    else:
        raise DTypeError.expected(
            "from_dlpack", "x", "an array with __dlpack__", type(x).__name__, "use gpucnn.tensor(...) for a copy"
        )
    if kind not in (CPU, CUDA):
        raise DeviceError.expected(
            "from_dlpack", "x", "memory of the CPU or a CUDA device", f"DLPack device {int(kind)}"
        )
    backend = get_backend("cpu" if kind == CPU else f"cuda:{index}")
    try:
        array = backend.adopt(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DTypeError.expected(
            "from_dlpack", "x", "memory that can be shared", f"{type(x).__name__}: {error}", "use gpucnn.tensor(...)"
        ) from None
    if kind == CUDA and not backend.owns(array):  # the array interface does not name the device
        backend = get_backend(f"cuda:{array.device.id}")
    if array.dtype.kind not in "fiub":
        raise DTypeError.expected("from_dlpack", "x", "numbers", f"dtype {array.dtype}")
    return Tensor(array, backend)
