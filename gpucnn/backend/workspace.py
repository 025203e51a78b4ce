"""Memory that kernels use again and again, so that the system need not map and clear fresh pages at every step."""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from typing import Any

import numpy as np

from gpucnn.errors import ParameterError

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
    if not asked.isdecimal() or int(asked) < 1:
        raise ParameterError.expected("GPUCNN_WORKSPACE", "value", "a positive whole number of MiB", repr(asked))
    return int(asked) << 20


class Workspace:
    """Gives out arrays whose memory comes back by itself once nothing looks into it any more.

    The pool holds each buffer in a list; an array given out, and every view of it, refers to the buffer. A buffer that
    only the list refers to is free. One up to twice too large will do.

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
        wanted = room = _room(size)
        with self._lock:
            while room <= 2 * wanted:
                buffers = self._buffers.get(room, ())
                for i in range(len(buffers)):
                    if sys.getrefcount(buffers[i]) == _FREE:
                        return np.ndarray(shape, dtype, buffer=buffers[i])
                room = _room(room + 1)
            self._make_way(wanted)
            buffer = np.empty(wanted, np.uint8)
            self._buffers.setdefault(wanted, []).append(buffer)
            return np.ndarray(shape, dtype, buffer=buffer)

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


def _room(size: int) -> int:
    """Return ``size`` rounded up to one of four steps between powers of two, so that like sizes share a buffer."""
    step = 1 << (size.bit_length() - 3)
    return -(-size // step) * step


def _count_of_a_listed_buffer() -> int:
    buffers = [np.empty(1, np.uint8)]
    return sys.getrefcount(buffers[0])


_FREE = _count_of_a_listed_buffer()
