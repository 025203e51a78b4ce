"""Batches of a data set as tensors, under PyTorch's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor, tensor
from gpucnn.backend import Backend, get_backend
from gpucnn.checks import check_count, check_flag, check_int
from gpucnn.data import Augmentation, Dataset, Draws
from gpucnn.data.parallel import ahead
from gpucnn.distributed import Communicator
from gpucnn.errors import DataError, ParameterError, kind_of
from gpucnn.training.loader import AUGMENTING, Batches, check_workers, epoch_order, usual_workers
from gpucnn.training.shards import Shards


class DataLoader(Batches):
    """Batches (inputs, targets) of a data set, as tensors on a device: ``for x, y in DataLoader(data, batch_size=32)``.

    dataset: a ``data.Dataset``, or any object with ``len`` whose items by index are pairs of arrays or numbers. shuffle: use
    another order in each epoch, determined by the seed. drop_last: leave out a last batch that is not full. transform: a
    function of the inputs of a batch, an array (B, ...); by default uint8 becomes float32 from 0 to 1 and other dtypes stay.
    workers: threads that read, augment and transform batches in advance (by default as for ``Loader``), with the same
    results; data set and transform are then used from several threads at once. augmentation: of inputs (B, C, H, W), before
    the transform; how an image changes depends on (seed, epoch, index) only. device: by default that of ``gpucnn.use``.
    comm: the communicator of processes that train together: each reads only its own part of every batch, which may be empty;
    all parts together are the batch of a single process. ``training.Loop`` accepts a loader as its batches; the ``comm`` of
    the loop then decides the parts.

    Raises ParameterError for wrong arguments, DataError for an empty data set or items that are not pairs.

    >>> import numpy
    >>> from gpucnn.data import ArrayDataset
    >>> data = ArrayDataset(numpy.zeros((5, 1, 2, 2), numpy.uint8), numpy.array([0, 1, 0, 1, 0]))
    >>> [(tuple(x.shape), y.tolist()) for x, y in DataLoader(data, batch_size=2)]
    [((2, 1, 2, 2), [0, 1]), ((2, 1, 2, 2), [0, 1]), ((1, 1, 2, 2), [0])]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        transform: Callable[[Any], Any] | None = None,
        *,
        workers: int | None = None,
        augmentation: Augmentation | None = None,
        device: str | Backend | None = None,
        comm: Communicator | None = None,
    ) -> None:
        where = "DataLoader"
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            words = "a data set with a length and items by index"
            raise ParameterError.expected(where, "dataset", words, kind_of(dataset))
        if transform is not None and not callable(transform):
            raise ParameterError.expected(where, "transform", "a function of an array", kind_of(transform))
        self.dataset, self.transform = dataset, transform
        self.batch_size = check_count(batch_size, where, "batch_size")
        self.shuffle, self.drop_last = check_flag(shuffle, where, "shuffle"), check_flag(drop_last, where, "drop_last")
        self.seed = abs(check_int(seed, where, "seed"))
        self.workers = usual_workers(dataset) if workers is None else check_workers(workers, where)
        if augmentation is not None and not isinstance(augmentation, Augmentation):
            raise ParameterError.expected(where, "augmentation", "a data.Augmentation", kind_of(augmentation))
        self.augmentation = augmentation
        if comm is not None and not isinstance(comm, Communicator):
            raise ParameterError.expected(where, "comm", "a communicator of distributed.init()", kind_of(comm))
        self._part: Callable[[int], slice] = Shards(comm or Communicator()).part
        self.passes = 0
        """Epochs that iterating has begun: the number of the next one."""
        self.backend = get_backend(device)
        if not len(self):
            raise DataError.expected(where, "dataset", "at least one batch", f"{len(dataset)} examples")

    def __len__(self) -> int:
        """Return the number of batches."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        for _, x, y in self.epoch(self.passes - 1):
            yield x, y

    def order(self, epoch: int) -> Any:
        """Return the indices of an epoch's examples (N,), on the host; they depend on (seed, epoch) only."""
        count = len(self.dataset)
        return epoch_order(count, self.seed, epoch) if self.shuffle else np.arange(count)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield (size, inputs, targets) of the batches of an epoch, from batch ``start`` on, as ``Loop`` takes them."""
        order, size = self.order(number), self.batch_size
        batches = [order[place * size : (place + 1) * size] for place in range(start, len(self))]
        own = (indices[self._part(len(indices))] for indices in batches)
        read = ahead(lambda indices: self._read(indices, number), own, self.workers)
        for indices, (inputs, targets) in zip(batches, read, strict=True):
            yield len(indices), tensor(inputs, device=self.backend), tensor(targets, device=self.backend)

    def take_part(self, part: Callable[[int], slice]) -> bool:
        self._part = part
        return True

    def take(self, count: int, *given: Tensor) -> tuple[Tensor, Tensor]:
        x, y = given
        return x, y

    def _read(self, indices: Any, epoch: int) -> tuple[Any, Any]:
        inputs, targets = self._items(indices)
        if self.augmentation is not None:
            inputs = self.augmentation(inputs, Draws([self.seed, epoch, AUGMENTING], indices))
        return self._transformed(inputs), targets

    def _items(self, indices: Any) -> tuple[Any, Any]:
        if isinstance(self.dataset, Dataset):
            return self.dataset[indices]
        pairs = [self.dataset[int(index)] for index in (indices if len(indices) else range(1))]
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise DataError.expected("DataLoader", "items", "pairs of inputs and targets", kind_of(pairs[0]))
        inputs, targets = (
            np.stack([one.numpy() if isinstance(one, Tensor) else np.asarray(one) for one in part])
            for part in zip(*pairs, strict=True)
        )
        return inputs[: len(indices)], targets[: len(indices)]

    def _transformed(self, inputs: Any) -> Any:
        if self.transform is not None:
            return self.transform(inputs)
        return inputs.astype(np.float32) / np.float32(255) if inputs.dtype == np.uint8 else inputs
