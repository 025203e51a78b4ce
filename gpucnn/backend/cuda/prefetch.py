"""Prefetch: batches are copied to the GPU while the previous step computes.

A batch goes through pinned memory, which the copy engine reads by itself. ``stream`` has two pinned buffers, two buffers on
the device, and a CUDA stream for copies. Events enforce four orders:

- the host refills a pinned buffer only after the copy out of it is done;
- a copy into a device buffer starts only after the step that read the previous batch there has ended;
- a step starts only after its batch has arrived;
- a copy into newly allocated device memory starts only after the previous use of that memory has ended.
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
    """A batch is read and copied after the previous step was launched, while that computes."""
    with device.active():
        copies = device.xp.cuda.Stream(non_blocking=True)
        slots = [_Slot(device, copies) for _ in range(2)]
    try:
        for slot, batch in zip(cycle(slots), batches, strict=False):
            yield slot.send(batch)
            slot.release()
    finally:
        copies.synchronize()  # before the buffers return to their pools


class _Slot:
    """One batch in flight: its pinned memory, its device memory, and the events between the two streams."""

    def __init__(self, device: CudaDevice, copies: Any) -> None:
        event = device.xp.cuda.Event
        self._device, self._copies = device, copies
        self._copied, self._used = event(disable_timing=True), event(disable_timing=True)
        self._buffers: list[tuple[Any, Array]] = []

    def send(self, batch: tuple[Any, ...]) -> tuple[Array, ...]:
        """Copy a batch to the device, make the current stream wait for it, and return it."""
        self._copied.synchronize()
        with self._device.active():
            self._allocate(batch)
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
        """Note that everything that reads the batch has been launched on the current stream."""
        with self._device.active():
            self._used.record(self._device.xp.cuda.get_current_stream())

    def _allocate(self, batch: tuple[Any, ...]) -> None:
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
