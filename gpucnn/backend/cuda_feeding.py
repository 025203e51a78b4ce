"""Data on CUDA: batches gathered by a count that is kept on the device, and batches copied while the step before computes.

A batch from the host goes through pinned memory, which the copy engine reads by itself: ``Stream`` has two buffers there
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
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.cuda_kernels import THREADS, int32

if TYPE_CHECKING:
    from gpucnn.backend.cuda import CudaBackend

Array = Any

RESIDENT_SHARE = 0.5
"""Of the memory that is free, what a data set may take to be kept on the device; the rest is for the training."""


def fits(backend: CudaBackend, size: int) -> bool:
    """Whether ``size`` bytes leave enough of the free memory, that of CuPy's pool too."""
    with backend.active():
        free, _ = backend.xp.cuda.runtime.memGetInfo()
        return bool(size <= RESIDENT_SHARE * (free + backend.xp.get_default_memory_pool().free_bytes()))


def gather_next(
    backend: CudaBackend, images: Array, labels: Array, order: Array, seen: Array, count: int, scale: Array, shift: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """``Feeding.gather_next`` of uint8 images, float32."""
    M, C, H, W = images.shape
    y = backend.empty("gather", (count, C, H, W), np.float32)
    taken = backend.empty("gather", (count,), np.int64)
    backend.kernels.each(
        "gather_next", y.size, images, labels, order, seen, scale, shift, y, taken,
        np.int64(M), np.int64(order.size), *int32(count, C), np.int64(H * W),
    )  # fmt: skip
    return y, taken


def add_totals(backend: CudaBackend, sums: Array, loss: Array, logits: Array, labels: Array) -> None:
    """``Feeding.add_totals`` of float32."""
    logits, labels = backend.contiguous(logits, labels)
    backend.kernels.launch("add_totals", (1,), (THREADS,), loss, logits, labels, sums, *int32(*logits.shape))


def stream(backend: CudaBackend, batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
    """``Feeding.stream``: a batch is read and copied after the step before was launched, so while that computes."""
    with backend.active():
        copies = backend.xp.cuda.Stream(non_blocking=True)
        slots = [_Slot(backend, copies) for _ in range(2)]
    try:
        for slot, batch in zip(cycle(slots), batches, strict=False):
            yield slot.send(batch)
            slot.release()
    finally:
        copies.synchronize()  # the buffers go back to their pools


class _Slot:
    """One batch under way: its pinned memory, its memory on the device, and the events between the two streams."""

    def __init__(self, backend: CudaBackend, copies: Any) -> None:
        event = backend.xp.cuda.Event
        self._backend, self._copies = backend, copies
        self._copied, self._used = event(disable_timing=True), event(disable_timing=True)
        self._buffers: list[tuple[Any, Array]] = []

    def send(self, batch: tuple[Any, ...]) -> tuple[Array, ...]:
        """Copy a batch, and let what the current stream does from now on wait for it; return it there."""
        self._copied.synchronize()
        with self._backend.active():
            self._make_room(batch)
            self._copies.wait_event(self._used)
            arrays = []
            for host, (pinned, device) in zip(batch, self._buffers, strict=True):
                pinned[: len(host)] = host
                device[: len(host)].set(pinned[: len(host)], stream=self._copies)
                arrays.append(device[: len(host)])
            self._copied.record(self._copies)
            self._backend.xp.cuda.get_current_stream().wait_event(self._copied)
        return tuple(arrays)

    def release(self) -> None:
        """Note that all that reads the batch is launched, on the current stream."""
        with self._backend.active():
            self._used.record(self._backend.xp.cuda.get_current_stream())

    def _make_room(self, batch: tuple[Any, ...]) -> None:
        pairs = zip(batch, self._buffers, strict=False)
        if self._buffers and all(_holds(pinned, host) for host, (pinned, _) in pairs):
            return
        empty_pinned = importlib.import_module("cupyx").empty_pinned
        self._buffers = [
            (empty_pinned(host.shape, host.dtype), self._backend.empty("batch", host.shape, host.dtype))
            for host in batch
        ]
        self.release()


def _holds(buffer: Any, host: Any) -> bool:
    return bool(buffer.dtype == host.dtype and buffer.shape[1:] == host.shape[1:] and len(buffer) >= len(host))
