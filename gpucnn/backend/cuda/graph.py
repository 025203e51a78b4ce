"""A step as one CUDA graph: captured on a private stream with private memory, and replayed in one launch.

Capture executes nothing. The memory that the step allocates during capture belongs to the graph. It comes from a private
pool, which an eager run has filled before, so that capture makes no allocations from the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from gpucnn.backend import ops
from gpucnn.backend.cuda.activation import draws_on
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.recording import Recording
from gpucnn.backend.dispatch import implements

Result = TypeVar("Result")


class Graph:
    """One captured step on one device."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        xp = device.xp
        with device.active():
            self._stream = xp.cuda.Stream(non_blocking=True)
            self._pool = xp.cuda.MemoryPool()
        self._recording = Recording()
        self._graph: Any = None

    @contextmanager
    def _inside(self, mode: Literal["watch", "record"]) -> Iterator[None]:
        device = self._device
        device.synchronize()  # the private stream does not wait for others: its inputs must be ready
        with device.active(), device.xp.cuda.using_allocator(self._pool.malloc), self._stream:
            self._recording.start(mode)
            device.recording = self._recording
            try:
                yield
            finally:
                device.recording = None

    def watch(self, step: Callable[[], Result]) -> tuple[Result, Recording]:
        """Run ``step`` eagerly in the graph's memory; return its result and the optimisers and generators it used."""
        with self._inside("watch"):
            result = step()
            self._stream.synchronize()
        return result, self._recording

    def record(self, step: Callable[[], Result]) -> Result:
        """Capture ``step`` and return its result, whose memory each replay fills. Errors of the capture are raised."""
        with self._device.active():
            draws = [draws_on(self._device, generator) for generator, _ in self._recording.draws()]
        known = [one.known for one in draws]
        try:
            with self._inside("record"):
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
        return set(self._recording.changed)

    def replay(self) -> None:
        """Do the host's part of the step, and launch the captured graph on the current stream."""
        device, recording = self._device, self._recording
        with device.active():
            for _, again in recording.optimizers:
                again()
            draws = [(draws_on(device, generator), generator, count) for generator, count in recording.draws()]
            self._graph.launch()
        for one, generator, count in draws:
            generator.counter += count
            one.known = (generator.seed, generator.counter)


@implements(ops.new_graph, on="cuda")
def new_graph(device: CudaDevice) -> Graph:
    return Graph(device)
