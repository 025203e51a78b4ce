"""Batches copied to the GPU while the step before computes.

A batch from the host goes through pinned memory, which the copy engine reads by itself: ``stream`` has two buffers there
and two on the device, and a CUDA stream for copies. Four orders must hold, each by an event:

- the host fills a pinned buffer again only when the copy out of it is done;
- a copy into a buffer of the device begins only when the step that read the batch there before has ended;
- a step begins only when its batch is there;
- new memory on the device is copied into only when what used that memory before has ended.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements


@implements(ops.stream, on="cuda")
def stream(device: CudaDevice, batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
    """A batch is read and copied after the step before was launched, so while that computes."""
    with device.active():
        copies = device.xp.cuda.Stream(non_blocking=True)
        slots = [_Slot(device, copies) for _ in range(2)]
    try:
        for slot, batch in zip(cycle(slots), batches, strict=False):
            yield slot.send(batch)
            slot.release()
    finally:
        copies.synchronize()  # the buffers go back to their pools


class _Slot:
    """One batch under way: its pinned memory, its memory on the device, and the events between the two streams."""

    def __init__(self, device: CudaDevice, copies: Any) -> None:
        event = device.xp.cuda.Event
        self._device, self._copies = device, copies
        self._copied, self._used = event(disable_timing=True), event(disable_timing=True)
        self._buffers: list[tuple[Any, Array]] = []

    def send(self, batch: tuple[Any, ...]) -> tuple[Array, ...]:
        """Copy a batch, and let what the current stream does from now on wait for it; return it there."""
        self._copied.synchronize()
        with self._device.active():
            self._make_room(batch)
            self._copies.wait_event(self._used)
            arrays = []
            for host, (pinned, device) in zip(batch, self._buffers, strict=True):
                pinned[: len(host)] = host
                device[: len(host)].set(pinned[: len(host)], stream=self._copies)
                arrays.append(device[: len(host)])
            self._copied.record(self._copies)
            self._device.xp.cuda.get_current_stream().wait_event(self._copied)
        return tuple(arrays)

    def release(self) -> None:
        """Note that all that reads the batch is launched, on the current stream."""
        with self._device.active():
            self._used.record(self._device.xp.cuda.get_current_stream())

    def _make_room(self, batch: tuple[Any, ...]) -> None:
        pairs = zip(batch, self._buffers, strict=False)
        if self._buffers and all(_holds(pinned, host) for host, (pinned, _) in pairs):
            return
        empty_pinned = importlib.import_module("cupyx").empty_pinned
        self._buffers = [
            (empty_pinned(host.shape, host.dtype), self._device.empty("batch", host.shape, host.dtype))
            for host in batch
        ]
        self.release()


def _holds(buffer: Any, host: Any) -> bool:
    return bool(buffer.dtype == host.dtype and buffer.shape[1:] == host.shape[1:] and len(buffer) >= len(host))
