"""A step as one CUDA graph: captured on a private stream with private memory, and replayed in one launch.

Capture executes nothing. The memory that the step allocates during capture belongs to the graph. It comes from a private
pool, which an eager run has filled before, so that capture makes no allocations from the driver.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from gpucnn.backend import ops
from gpucnn.backend.cuda.activation import draws_on
from gpucnn.backend.cuda.capture_state import CaptureState
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.dispatch import implements

Result = TypeVar("Result")


class GraphMemory:
    """The pool of the graphs of one captured function. What it holds goes back to the driver when the function is gone.

    CuPy itself (14.1 and later) never frees the unused memory of a pool that is dropped.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.pool = device.new_pool()
        weakref.finalize(self, device.retire, self.pool).atexit = False  # at exit the driver may be gone


class Graph:
    """One captured step on one device, in memory that other graphs of the same function use as well."""

    def __init__(self, device: CudaDevice, memory: GraphMemory) -> None:
        self._device, self._memory = device, memory
        with device.active():
            self._stream = device.xp.cuda.Stream(non_blocking=True)
        self._state = CaptureState()
        self._graph: Any = None

    @contextmanager
    def _inside(self, mode: Literal["observe", "capture"]) -> Iterator[None]:
        device = self._device
        device.synchronize()  # the private stream does not wait for others: its inputs must be ready
        with device.active(), device.xp.cuda.using_allocator(self._memory.pool.malloc), self._stream:
            self._state.start(mode)
            device.capture_state = self._state
            try:
                yield
            finally:
                device.capture_state = None

    def observe(self, step: Callable[[], Result]) -> tuple[Result, CaptureState]:
        """Run ``step`` eagerly in the graph's memory; return its result and the optimisers and generators it used."""
        with self._inside("observe"):
            result = step()
            self._stream.synchronize()
        return result, self._state

    def capture(self, step: Callable[[], Result]) -> Result:
        """Capture ``step`` and return its result, whose memory each replay fills. Errors of the capture are raised."""
        with self._device.active():
            draws = [draws_on(self._device, generator) for generator, _ in self._state.draws()]
        known = [one.known for one in draws]
        try:
            with self._inside("capture"):
                self._stream.begin_capture()
                try:
                    result = step()
                finally:
                    self._graph = self._stream.end_capture()
        finally:
            for one, before in zip(draws, known, strict=True):
                one.known = before  # capture draws nothing
        return result

    def changed(self) -> set[Hashable]:
        """Return the versions that the previous run changed in place."""
        return set(self._state.changed)

    def replay(self) -> None:
        """Do the host's part of the step, and launch the captured graph on the current stream."""
        device, state = self._device, self._state
        with device.active():
            for _, again in state.optimizers:
                again()
            draws = [(draws_on(device, generator), generator, count) for generator, count in state.draws()]
            self._graph.launch()
        for one, generator, count in draws:
            generator.counter += count
            one.known = (generator.seed, generator.counter)


@implements(ops.new_graph_memory, on="cuda")
def new_graph_memory(device: CudaDevice) -> GraphMemory:
    return GraphMemory(device)


@implements(ops.new_graph, on="cuda")
def new_graph(device: CudaDevice, memory: GraphMemory) -> Graph:
    return Graph(device, memory)
