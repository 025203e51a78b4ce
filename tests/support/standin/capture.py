"""Stream capture for the stand-in: what is launched on a capturing stream is kept, in order, and run by Graph.launch.

It refuses what CuPy and CUDA refuse while a stream captures, and one thing more: memory from the default pool, which
others would be given again while the graph still writes to it.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from .values import poison

UNSUPPORTED, INVALIDATED, ILLEGAL = 900, 901, 401  # cudaErrorStreamCapture..., cudaErrorIllegalState


class _Capture(threading.local):
    """The graph that this thread's current stream records; None as a rule."""

    graph: "Graph | None" = None


current = _Capture()


class Graph:
    """cupy.cuda.Graph: the launches of a captured stream."""

    def __init__(self) -> None:
        self._work: list[Callable[[], None]] = []
        self.touched: list[np.ndarray[Any, Any]] = []
        self._valid = True

    def launch(self, stream: Any = None) -> None:
        refuse("a graph launch", UNSUPPORTED)
        from .counters import launches, streams

        launches.note("graph")
        for array in self.touched:
            streams.access(array)
        for work in self._work:
            work()

    def __len__(self) -> int:
        return len(self._work)


def refuse(what: str, status: int = UNSUPPORTED) -> None:
    """Fail, and make the capture fail at its end, if this thread captures."""
    if current.graph is not None:
        from .cuda import cuda_error

        current.graph._valid = False
        error = cuda_error(status)
        error.add_note(f"{what} while a stream captures")
        raise error


def refuse_transfer(direction: str) -> None:
    """Fail as cupy/cuda/memory.pyx does, which asks before it calls CUDA: the capture stays valid."""
    if current.graph is not None:
        raise RuntimeError(f"the current stream is capturing, so {direction} transfers are disallowed")


def refuse_library(what: str) -> None:
    """CuPy's wrappers of cuBLAS and cuRAND refuse by themselves."""
    if current.graph is not None:
        current.graph._valid = False
        raise NotImplementedError(f"calling {what} API during stream capture is currently unsupported")


def refuse_default_pool() -> None:
    """Memory that a graph uses must come from a pool of its own."""
    if current.graph is not None:
        from .cuda import _current

        if _current.allocator is None:
            current.graph._valid = False
            raise AssertionError("memory from the default pool while a stream captures: the graph does not keep it")


def do(work: Callable[[], None]) -> None:
    """Run work that changes memory in place, or keep it for the graph."""
    if current.graph is None:
        work()
    else:
        current.graph._work.append(work)


def make(compute: Callable[[], Any], compute_shape: Callable[[], Any] | None = None) -> Any:
    """Return a new array's values, or, captured, uninitialised memory of their shape that the graph will fill.

    Captured, something of that shape is computed here too: what nobody has written yet may be no valid index, say.
    """
    value = compute() if current.graph is None or compute_shape is None else compute_shape()
    if current.graph is None or not isinstance(value, (np.ndarray, np.generic)):
        return value
    refuse_default_pool()
    buffer = poison(np.array(value))
    current.graph._work.append(lambda: np.copyto(buffer, compute()))
    return buffer
