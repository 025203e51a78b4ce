"""Memory that kernels use again and again, so that the system need not map and clear fresh pages at every step.

Activations keep their logical shape (N, C, H, W), but kernels return views of (C, H, W, N) memory, the batch last: each
slice that convolution and pooling take is then one long run, and the product of filters and columns comes out in place.
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
"""Bytes below which NumPy's own allocation is as good."""


_workspaces: weakref.WeakSet[Workspace] = weakref.WeakSet()


def _free_locks() -> None:
    """In a forked process the thread that held a lock is gone."""
    for workspace in _workspaces:
        workspace._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


SPARE = 1.5
"""Times the most that was ever in use at once: how much the pool holds before it lets idle buffers go."""


def limit_from_environment() -> int:
    """Return ``GPUCNN_WORKSPACE`` in bytes, 64 MiB where it is not set; ParameterError for what is no size."""
    asked = os.environ.get("GPUCNN_WORKSPACE", "") or "64"
    return positive("GPUCNN_WORKSPACE", asked, "a positive whole number of MiB") << 20


class Workspace:
    """Gives out arrays whose memory comes back by itself once nothing looks into it any more.

    The pool holds each buffer in a list; an array given out, and every view of it, refers to the buffer. A buffer that
    only the list refers to is free. One up to twice too large will do.

    limit: the bytes that one convolution may take for padded images; ``GPUCNN_WORKSPACE`` (in MiB), or 64 MiB. Where a
    kernel is shared among ``sharers`` threads or processes, each has its share of that.
    """

    def __init__(self, sharers: int = 1) -> None:
        self._sharers = sharers
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
        step = 1 << (size.bit_length() - 3)  # four steps between powers of two, so that like sizes share a buffer
        wanted = room = -(-size // step) * step
        with self._lock:
            while room <= 2 * wanted:
                buffers = self._buffers.get(room, ())
                for i in range(len(buffers)):
                    if sys.getrefcount(buffers[i]) == _FREE:
                        return np.ndarray(shape, dtype, buffer=buffers[i])
                room += 1 << ((room + 1).bit_length() - 3)  # the next step
            self._make_way(wanted)
            buffer = np.empty(wanted, np.uint8)
            self._buffers.setdefault(wanted, []).append(buffer)
            return np.ndarray(shape, dtype, buffer=buffer)

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._limit, self.limit_of_each = limit, max(limit // self._sharers, 1)

    def batch_last(self, x: Array) -> Array:
        """Return (N, C, H, W) ``x`` as (C, H, W, N) with each channel C-ordered: itself where its memory is so already.

        A channel repeated by a stride of 0 is copied: NumPy multiplies such a matrix without the BLAS, to other bits.
        """
        y = x.transpose(1, 2, 3, 0)
        if y.strides[0] and y[:1].flags.c_contiguous:
            return y
        copy = self.empty(y.shape, y.dtype)
        if x.flags.c_contiguous:  # a 2-D transposition is the fastest way from batch-first memory
            np.copyto(copy.reshape(-1, x.shape[0]), x.reshape(x.shape[0], -1).T)
        else:
            np.copyto(copy, y)
        return copy

    def empty_batch_last(self, shape: tuple[int, int, int, int], dtype: Any) -> Array:
        """Return uninitialised (N, C, H, W) with the batch last in memory."""
        N, C, H, W = shape
        return self.empty((C, H, W, N), dtype).transpose(3, 0, 1, 2)

    def clear(self) -> None:
        """Give all free memory back to the system."""
        with self._lock:
            self._peak = 0
            self._drop_free(0)

    def _make_way(self, wanted: int) -> None:
        """Before growing, let free buffers go that shapes of before needed, the largest first."""
        total = sum(room * len(buffers) for room, buffers in self._buffers.items())
        free = sum(room for room, buffers in self._buffers.items() for i in _free(buffers))
        self._peak = max(self._peak, total - free + wanted)
        self._drop_free(SPARE * self._peak - wanted)

    def _drop_free(self, limit: float) -> None:
        """Let free buffers go until what is held is within ``limit`` bytes."""
        total = sum(room * len(buffers) for room, buffers in self._buffers.items())
        for room in sorted(self._buffers, reverse=True):
            buffers = self._buffers[room]
            for i in reversed(_free(buffers)):
                if total > limit:
                    del buffers[i]
                    total -= room


def _free(buffers: list[np.ndarray[Any, Any]]) -> list[int]:
    """Return the places of the buffers that only this list refers to."""
    return [i for i in range(len(buffers)) if sys.getrefcount(buffers[i]) == _FREE]


def _count_of_a_listed_buffer() -> int:
    buffers = [np.empty(1, np.uint8)]
    return sys.getrefcount(buffers[0])


_FREE = _count_of_a_listed_buffer()
