"""A memory pool for kernels, so that the system does not map and clear new pages in every step.

Activations keep their logical shape (N, C, H, W), but kernels return views of (C, H, W, N) memory, the batch last: each
slice that convolution and pooling use is then contiguous, and the GEMM of filters and columns needs no transposition.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from typing import Any

import numpy as np

from gpucnn.backend.cpu.threads import positive
from gpucnn.backend.device import Array

SMALLEST = 1 << 16
"""Bytes below which NumPy's own allocation is as fast."""


_workspaces: weakref.WeakSet[Workspace] = weakref.WeakSet()


def _free_locks() -> None:
    """Release the locks in a forked process, where the thread that held one does not exist."""
    for workspace in _workspaces:
        workspace._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


SPARE = 1.5
"""The pool frees idle buffers if it has more than this multiple of the most bytes ever in use."""


def limit_from_environment() -> int:
    """Return ``GPUCNN_WORKSPACE`` in bytes, by default 64 MiB; ParameterError for an invalid size."""
    asked = os.environ.get("GPUCNN_WORKSPACE", "") or "64"
    return positive("GPUCNN_WORKSPACE", asked, "a positive whole number of MiB") << 20


class Workspace:
    """Allocates arrays whose memory returns to the pool once no array refers to it.

    The pool keeps each buffer in a list. An allocated array and its views refer to the buffer. A buffer that only the list
    refers to is free. A request accepts a buffer of up to twice its size.

    limit: the bytes that one convolution may take for padded images; ``GPUCNN_WORKSPACE`` (in MiB), or 64 MiB.
    """

    def __init__(self) -> None:
        self.limit = limit_from_environment()
        self._buffers: dict[int, list[np.ndarray[Any, Any]]] = {}
        self._peak = 0
        self._lock = threading.Lock()
        _workspaces.add(self)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return an uninitialised C-ordered array."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST:
            return np.empty(shape, dtype)
        step = 1 << (size.bit_length() - 3)  # four sizes per power of two, so that similar requests share a buffer
        wanted = capacity = -(-size // step) * step
        with self._lock:
            while capacity <= 2 * wanted:
                buffers = self._buffers.get(capacity, ())
                for i in range(len(buffers)):
                    if sys.getrefcount(buffers[i]) == _FREE:
                        return np.ndarray(shape, dtype, buffer=buffers[i])
                capacity += 1 << ((capacity + 1).bit_length() - 3)  # the next size
            self._make_way(wanted)
            buffer = np.empty(wanted, np.uint8)
            self._buffers.setdefault(wanted, []).append(buffer)
            return np.ndarray(shape, dtype, buffer=buffer)

    def batch_last(self, x: Array) -> Array:
        """Return (N, C, H, W) ``x`` as (C, H, W, N) with C-ordered channels, copied only if necessary.

        A channel repeated by a stride of 0 is copied, because NumPy multiplies such a matrix without the BLAS.
        """
        y = x.transpose(1, 2, 3, 0)
        if y.strides[0] and y[:1].flags.c_contiguous:
            return y
        copy = self.empty(y.shape, y.dtype)
        if x.flags.c_contiguous:  # a 2-D transposition is the fastest for batch-first memory
            np.copyto(copy.reshape(-1, x.shape[0]), x.reshape(x.shape[0], -1).T)
        else:
            np.copyto(copy, y)
        return copy

    def empty_batch_last(self, shape: tuple[int, int, int, int], dtype: Any) -> Array:
        """Return an uninitialised (N, C, H, W) array in batch-last memory."""
        N, C, H, W = shape
        return self.empty((C, H, W, N), dtype).transpose(3, 0, 1, 2)

    def clear(self) -> None:
        """Return all free memory to the system."""
        with self._lock:
            self._peak = 0
            self._drop_free(0)

    def _make_way(self, wanted: int) -> None:
        """Before growing, free buffers that earlier shapes needed, the largest first."""
        total = sum(capacity * len(buffers) for capacity, buffers in self._buffers.items())
        free = sum(capacity for capacity, buffers in self._buffers.items() for i in _free(buffers))
        self._peak = max(self._peak, total - free + wanted)
        self._drop_free(SPARE * self._peak - wanted)

    def _drop_free(self, limit: float) -> None:
        """Free unused buffers until the pool is within ``limit`` bytes."""
        total = sum(capacity * len(buffers) for capacity, buffers in self._buffers.items())
        for capacity in sorted(self._buffers, reverse=True):
            buffers = self._buffers[capacity]
            for i in reversed(_free(buffers)):
                if total > limit:
                    del buffers[i]
                    total -= capacity


def _free(buffers: list[np.ndarray[Any, Any]]) -> list[int]:
    """Return the indices of the buffers that only this list refers to."""
    return [i for i in range(len(buffers)) if sys.getrefcount(buffers[i]) == _FREE]


def _count_of_a_listed_buffer() -> int:
    buffers = [np.empty(1, np.uint8)]
    return sys.getrefcount(buffers[0])


_FREE = _count_of_a_listed_buffer()
