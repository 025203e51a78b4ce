"""Batches on the device: images are kept and moved as they are stored, and converted and normalised there.

The host's work for a batch (``Batches.epoch``) is separate from the device's (``Batches.take``), so that the latter can be
captured together with the step. The batches also keep the position in the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor, no_grad, tensor
from gpucnn.backend import Array, Backend, ops
from gpucnn.checks import is_count, shown
from gpucnn.data import ArrayDataset, Augmentation, Dataset, Draws, Subset
from gpucnn.data.moments import moments
from gpucnn.data.parallel import ahead, cores
from gpucnn.errors import DataError, ParameterError

Scaling = tuple[Array, Array, Any]
"""Scale and shift of each channel (C,), and the dtype of what comes out."""

AUGMENTING = 1
"""Last number of the seed of an epoch's augmentation; none is 0, which would seed as if it were left out."""

SAMPLE = 10_000
"""Images from which the mean and standard deviation are measured, where a data set is not in memory."""

SAMPLE_PIXELS = 2**24
"""The most pixels of them: they are read into memory together."""


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels scaled to 0..1 (or as they are, for floats)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: Dataset) -> Normalisation:
        """Measure mean and standard deviation of the images of a data set."""
        indices = None
        if isinstance(data, ArrayDataset):
            images = data.images
        elif isinstance(data, Subset) and isinstance(data.whole, ArrayDataset):
            images, indices = data.whole.images, data.indices
        else:
            some = min(len(data), SAMPLE, max(SAMPLE_PIXELS // math.prod(data.image_shape), 1))
            images, _ = data[np.arange(some)]
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        mean, variance = moments(images, indices)
        mean, std = mean / scale, np.sqrt(variance) / scale
        return cls(tuple(mean.tolist()), tuple(float(s) if s > 0 else 1.0 for s in std))


def read_batch(data: Dataset, indices: Any) -> tuple[Any, Any]:
    """Return ``data[indices]``; DataError if it breaks the contract of ``Dataset``."""
    images, labels = data[indices]
    images, labels = np.asarray(images), np.asarray(labels)
    where, count = type(data).__name__, len(indices)
    if images.ndim != 4 or len(images) != count or (images.dtype != np.uint8 and images.dtype.kind != "f"):
        raise DataError.expected(
            where, "images", f"({count}, C, H, W), uint8 or floating", f"{images.shape} {images.dtype}"
        )
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError.expected(where, "labels", f"({count},) integers", f"{labels.shape} {labels.dtype}")
    check_labels(where, labels, data.classes)
    return images, labels.astype(np.int64, copy=False)


def check_labels(where: str, labels: Any, classes: int) -> None:
    """DataError unless all labels are from 0 to ``classes`` - 1: a GPU kernel cannot raise an error."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError.expected(where, "labels", f"0 to {classes - 1}", f"{labels.min()} to {labels.max()}")


def epoch_order(count: int, seed: int, epoch: int) -> Any:
    """Return the shuffled indices (count,) of an epoch; they depend on (seed, epoch) only, not on workers or processes."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def usual_workers(data: Any) -> int:
    """Return the default number of threads that read a data set: one per processor to decode files, otherwise none."""
    return cores() if getattr(data, "decodes", False) else 0


def check_workers(workers: Any, where: str) -> int:
    """Return a number of workers as an int; ParameterError unless it is from 0 to 255."""
    if not is_count(workers, 0, 255):
        raise ParameterError.expected(where, "workers", "a whole number from 0 to 255", shown(workers))
    return int(workers)


class Batches:
    """The batches of epochs, in two parts: the host's work for each, and the device's, which can be captured.

    ``for given in batches.epoch(number): x, y = batches.take(*given)``. Each batch is taken before the next is asked for.
    """

    state: tuple[Tensor, ...] = ()
    """Tensors that ``take`` changes in place."""

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        raise NotImplementedError

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        """Yield the arguments of ``take`` for each batch of an epoch, from batch ``start`` on: its size, then Tensors."""
        raise NotImplementedError

    def take_part(self, part: Callable[[int], slice]) -> bool:
        """Make ``take`` return only ``part(count)`` of each batch of ``count``; return whether it does."""
        return False

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs (B, ...) and targets (B, ...) of the batch on the device; moves nothing there."""
        raise NotImplementedError


class GivenBatches(Batches):
    """Batches from a re-iterable of (inputs, targets), Tensors or NumPy arrays, such as a list."""

    def __init__(self, pairs: Iterable[tuple[Any, Any]], backend: Backend) -> None:
        self._pairs, self._backend = pairs, backend

    def __len__(self) -> int:
        return len(self._pairs)  # type: ignore[arg-type]

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        for place, pair in enumerate(self._pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise DataError.expected("batches", "a batch", "a pair (inputs, targets)", type(pair).__name__)
            if place >= start:
                x, y = (self._moved(part) for part in pair)
                yield len(x), x, y

    def _moved(self, part: Any) -> Tensor:
        return part.to(self._backend) if isinstance(part, Tensor) else tensor(part, device=self._backend)

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        x, y = given
        return x, y


class LoadedBatches(Batches):
    """Batches from a loader, ``size`` images each (the last may be smaller), in the order of a seed or of the data set."""

    def __init__(self, loader: Loader, size: int, seed: int | None) -> None:
        self.loader, self.backend, self.size, self._seed = loader, loader.backend, size, seed
        self._part: Callable[[int], slice] = _all_of

    def take_part(self, part: Callable[[int], slice]) -> bool:
        self._part = part
        return True

    def __len__(self) -> int:
        return -(-len(self.loader) // self.size)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Any, ...]]:
        if self._seed is None:
            return self.of(np.arange(len(self.loader)), start)
        return self.of(self.loader.order(self._seed, number), start, (self._seed, number))

    def of(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the arguments of ``take`` for batches of these indices (a host array); ``seed`` decides the augmentation."""
        raise NotImplementedError


class ResidentBatches(LoadedBatches):
    """Batches from a data set on the device. The order is copied there once per epoch; a cursor there marks the position."""

    def __init__(
        self, loader: Loader, images: Array, labels: Array, scaling: Scaling, size: int, seed: int | None
    ) -> None:
        super().__init__(loader, size, seed)
        self._images, self._labels, self._scaling = images, labels, scaling
        self._order = ops.zeros(self.backend, len(labels), np.int64)
        self._cursor = Tensor(ops.zeros(self.backend, 1, np.float64), self.backend)
        self.state = (self._cursor,)

    def of(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        backend, first = self.backend, start * self.size
        ops.assign(backend, self._order, slice(0, len(order)), backend.asarray(order))
        with no_grad():
            self._cursor[...] = float(first)
        for place in range(first, len(order), self.size):
            yield (min(self.size, len(order) - place),)

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        backend, seen, part = self.backend, self._cursor.array, self._part(count)
        if part.start:
            ops.add_to(backend, seen, part.start)
        chosen = part.stop - part.start
        x, y = ops.gather_next(backend, self._images, self._labels, self._order, seen, chosen, *self._scaling)
        ops.add_to(backend, seen, count - part.start)
        return Tensor(x, backend), Tensor(y, backend)


class ReadBatches(LoadedBatches):
    """Batches from a data set on the host, read by ``read(indices, seed)`` and moved as stored."""

    def __init__(
        self,
        loader: Loader,
        read: Callable[[Any, tuple[int, ...]], tuple[Any, Any]],
        scaling: Scaling,
        size: int,
        seed: int | None,
    ) -> None:
        super().__init__(loader, size, seed)
        self._read, self._scaling = read, scaling

    def of(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[tuple[Any, ...]]:
        counts = (min(self.size, len(order) - first) for first in range(start * self.size, len(order), self.size))
        read = ops.stream(self.backend, self._read_all(order, start, seed))
        for count, (images, labels) in zip(counts, read, strict=True):
            yield count, Tensor(images, self.backend), Tensor(labels, self.backend)

    def _read_all(self, order: Any, start: int, seed: tuple[int, ...]) -> Iterator[tuple[Any, Any]]:
        numbers = range(start, -(-len(order) // self.size))
        batches = (order[number * self.size : (number + 1) * self.size] for number in numbers)
        own = (chosen[self._part(len(chosen))] for chosen in batches)
        return ahead(lambda indices: self._read(indices, seed), own, self.loader.workers)

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        backend, (images, labels) = self.backend, given
        x = ops.gather(backend, images.array, ops.arange(backend, len(images)), *self._scaling)
        y = ops.c_ordered_copy(backend, labels.array)  # the next batch but one comes into the memory that it is in
        return Tensor(x, backend), Tensor(y, backend)


def _all_of(count: int) -> slice:
    return slice(0, count)


def batches_of(batches: Any, backend: Backend) -> Batches:
    """Return ``batches`` as ``Loop`` uses them; ParameterError for an object that gives none."""
    if isinstance(batches, Batches):
        return batches
    if isinstance(batches, Iterator) or not isinstance(batches, Iterable):
        raise ParameterError.expected(
            "Loop", "batches", "Loader.batches(size), or an iterable of (inputs, targets) that starts anew each epoch",
            type(batches).__name__, "pass a list" if isinstance(batches, Iterator) else "",
        )  # fmt: skip
    return GivenBatches(batches, backend)


class Loader:
    """Gives batches of a data set as tensors on a device: images (B, C, H, W) normalised, labels (B,) int64.

    A data set in memory goes to the device as a whole if it fits; others are read and moved batch by batch. With an
    ``augmentation``, batches that are requested with a seed are augmented, on the host. workers: threads that read and
    augment batches in advance, by default one per processor if images are decoded from files, otherwise none; any number
    gives the same batches. The data set is then read from several threads at once.
    """

    def __init__(
        self,
        data: Dataset,
        backend: Backend,
        normalisation: Normalisation,
        precision: str = "float32",
        augmentation: Augmentation | None = None,
        workers: int | None = None,
    ) -> None:
        self.data, self.backend, self.augmentation = data, backend, augmentation
        self.workers = usual_workers(data) if workers is None else check_workers(workers, "Loader")
        first, _ = read_batch(data, np.arange(min(len(data), 1)))
        pixel = 255.0 if first.dtype == np.uint8 else 1.0
        mean, std, dtype = np.array(normalisation.mean), np.array(normalisation.std), np.dtype(precision)
        wide = np.promote_types(dtype, np.float32)
        scale, shift = (1 / (pixel * std)).astype(wide), (-mean / std).astype(wide)
        self._scaling: Scaling = backend.asarray(scale), backend.asarray(shift), dtype
        self.dtype = dtype
        self._resident: tuple[Array, Array] | None = None
        if isinstance(data, ArrayDataset) and augmentation is None:
            self._resident = self._moved_whole(data)

    def _moved_whole(self, data: ArrayDataset) -> tuple[Array, Array] | None:
        """Return images and labels on the device; None if they do not fit there."""
        if not self.backend.fits(data.images.nbytes + data.labels.nbytes):
            return None
        check_labels(type(data).__name__, data.labels, data.classes)
        return self.backend.asarray(data.images), self.backend.asarray(data.labels)

    def __len__(self) -> int:
        return len(self.data)

    def order(self, seed: int, epoch: int) -> Any:
        """Return the shuffled indices of an epoch, on the host."""
        return epoch_order(len(self), seed, epoch)

    def batches(self, size: int, seed: int | None = None) -> LoadedBatches:
        """Return batches of ``size`` images (the last may be smaller), as ``Loop`` takes them.

        seed: of shuffling and augmentation; without a seed the images come in their order, without augmentation.
        """
        if self._resident is not None:
            return ResidentBatches(self, *self._resident, self._scaling, size, seed)
        return ReadBatches(self, self._read, self._scaling, size, seed)

    def batch(self, indices: Any, seed: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Return the images and labels of these indices (a host array).

        With ``seed`` (of the run, and the epoch) they are augmented. How an image changes depends on seed and index only, in
        whatever batch it is, so a resumed run sees the same images.
        """
        backend = self.backend
        if self._resident is not None:
            images, labels = self._resident
            chosen = backend.asarray(indices)
            labels = ops.index(backend, labels, chosen)
        else:
            images, labels = (backend.asarray(part) for part in self._read(indices, seed))
            chosen = ops.arange(backend, len(indices))
        x = ops.gather(backend, images, chosen, *self._scaling)
        return Tensor(x, backend), Tensor(labels, backend)

    def _read(self, indices: Any, seed: tuple[int, ...]) -> tuple[Any, Any]:
        images, labels = read_batch(self.data, indices)
        if self.augmentation is not None and seed:
            images = self.augmentation(images, Draws([*seed, AUGMENTING], indices))
        return images, labels
