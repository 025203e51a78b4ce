"""Memory that kernels use again and again, so that the system need not map and clear fresh pages at every step."""

from __future__ import annotations

import math
import os
import sys
import threading
import weakref
from typing import Any

import numpy as np

SMALLEST = 1 << 16
"""Bytes below which NumPy's own allocation is as good."""


_workspaces: weakref.WeakSet[Workspace] = weakref.WeakSet()


def _free_locks() -> None:
    """In a forked process the thread that held a lock is gone."""
    for workspace in _workspaces:
        workspace._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


class Workspace:
    """Gives out arrays whose memory comes back by itself once nothing looks into it any more.

    The pool holds each buffer in a list; an array given out, and every view of it, refers to the buffer. A buffer that
    only the list refers to is free.
    """

    def __init__(self) -> None:
        self._buffers: dict[int, list[np.ndarray[Any, Any]]] = {}
        self._lock = threading.Lock()
        _workspaces.add(self)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Return an uninitialised C-ordered array."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < SMALLEST:
            return np.empty(shape, dtype)
        room = _room(size)
        with self._lock:
            buffers = self._buffers.setdefault(room, [])
            for i in range(len(buffers)):
                if sys.getrefcount(buffers[i]) == _FREE:
                    return np.ndarray(shape, dtype, buffer=buffers[i])
            self._drop_idle(room)
            buffer = np.empty(room, np.uint8)
            buffers.append(buffer)
            return np.ndarray(shape, dtype, buffer=buffer)

    def clear(self) -> None:
        """Give all free memory back to the system."""
        with self._lock:
            for buffers in self._buffers.values():
                for i in reversed(range(len(buffers))):
                    if sys.getrefcount(buffers[i]) == _FREE:
                        del buffers[i]

    def _drop_idle(self, wanted: int) -> None:
        """Before growing, let free buffers go while more is free than is wanted or in use: shapes have changed."""
        used = free = 0
        for room, buffers in self._buffers.items():
            for i in range(len(buffers)):
                if sys.getrefcount(buffers[i]) == _FREE:
                    free += room
                else:
                    used += room
        for room in sorted(self._buffers, reverse=True):
            buffers = self._buffers[room]
            for i in reversed(range(len(buffers))):
                if free > used + wanted and sys.getrefcount(buffers[i]) == _FREE:
                    del buffers[i]
                    free -= room


def _room(size: int) -> int:
    """Return ``size`` rounded up to one of four steps between powers of two, so that like sizes share a buffer."""
    step = 1 << (size.bit_length() - 3)
    return -(-size // step) * step


def _count_of_a_listed_buffer() -> int:
    buffers = [np.empty(1, np.uint8)]
    return sys.getrefcount(buffers[0])


_FREE = _count_of_a_listed_buffer()
