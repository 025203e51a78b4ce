"""A step as one CUDA graph: recorded on a private stream, with memory of its own, and replayed in one launch.

Recording runs nothing. The memory that the step takes while it is recorded stays the graph's: it comes from a pool that
nobody else uses, filled by an ordinary run before, so that recording itself asks nothing of the driver.
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
    """One recorded step of one device."""

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
        device.synchronize()  # the private stream waits for nobody: what it reads must be there
        with device.active(), device.xp.cuda.using_allocator(self._pool.malloc), self._stream:
            self._recording.start(mode)
            device.recording = self._recording
            try:
                yield
            finally:
                device.recording = None

    def watch(self, step: Callable[[], Result]) -> tuple[Result, Recording]:
        """Run ``step`` as usual, in the graph's memory; return its result and who stepped and drew in it."""
        with self._inside("watch"):
            result = step()
            self._stream.synchronize()
        return result, self._recording

    def record(self, step: Callable[[], Result]) -> Result:
        """Record ``step``; its result is memory that each replay fills. Raises whatever cannot be recorded raises."""
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
                one.known = before  # recording draws nothing
        return result

    def changed(self) -> set[Hashable]:
        """Return what the run before noted as changed in place."""
        return set(self._recording.changed)

    def replay(self) -> None:
        """Do the host's part of the step, and run the recorded launches on the current stream."""
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
