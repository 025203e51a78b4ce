"""The batches of an epoch in two parts: what the host does for each, and what the device does, which can be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor
from gpucnn.backend import Array, Backend
from gpucnn.training.step import Totals

Scaling = tuple[Array, Array, Any]
"""Scale and shift of each channel (C,), and the dtype of what comes out."""


class Batches:
    """Batches of ``size`` images and the rest: ``of`` is the host's part, ``take`` the device's, which moves nothing.

    ``for given in batches.of(order): x, y = batches.take(*given)``, and then ``totals.add(loss, logits, y)``: the batch that
    is taken is the one after the images that the totals count.
    """

    def of(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield what ``take`` needs for each batch of indices (a host array) from number ``start`` on: its size, and more.

        A batch is taken, and counted, before the next is asked for.
        """
        raise NotImplementedError

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (B, C, H, W), normalised, and labels (B,) int64 of the batch."""
        raise NotImplementedError


class ResidentBatches(Batches):
    """Of a data set on the device. The order goes there once an epoch; ``totals`` count there how far it is used up."""

    def __init__(
        self, backend: Backend, images: Array, labels: Array, scaling: Scaling, size: int, totals: Totals
    ) -> None:
        self._backend, self._size = backend, size
        self._images, self._labels, self._scaling = images, labels, scaling
        with backend.active():
            self._order = backend.xp.zeros(len(labels), np.int64)
            self._seen = totals.seen

    def of(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        backend, first = self._backend, start * self._size
        with backend.active():
            self._order[: len(order)] = backend.asarray(order)
            self._seen[...] = first
        for place in range(first, len(order), self._size):
            yield (min(self._size, len(order) - place),)

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        backend = self._backend
        with backend.active():
            x, y = backend.gather_next(self._images, self._labels, self._order, self._seen, count, *self._scaling)
        return Tensor(x, backend), Tensor(y, backend)


class ReadBatches(Batches):
    """Of a data set that is read on the host, by ``read(indices, seed)``, and moved as it is stored."""

    def __init__(
        self, backend: Backend, read: Callable[[Any, tuple[int, ...]], tuple[Any, Any]], scaling: Scaling, size: int
    ) -> None:
        self._backend, self._read, self._scaling, self._size = backend, read, scaling, size

    def of(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        for images, labels in self._backend.stream(self._read_all(order, start, seed)):
            yield len(labels), Tensor(images, self._backend), Tensor(labels, self._backend)

    def _read_all(self, order: Any, start: int, seed: tuple[int, ...]) -> Iterator[tuple[Any, Any]]:
        for number in range(start, -(-len(order) // self._size)):
            chosen = order[number * self._size : (number + 1) * self._size]
            yield self._read(chosen, (*seed, number) if seed else ())

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        backend, (images, labels) = self._backend, given
        with backend.active():
            x = backend.gather(images.array, backend.xp.arange(count), *self._scaling)
            y = labels.array.copy()  # the next batch but one comes into the memory that it is in
        return Tensor(x, backend), Tensor(y, backend)
