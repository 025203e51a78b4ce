"""Batches of a data set as tensors, under PyTorch's name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor, tensor
from gpucnn.backend import Backend, get_backend
from gpucnn.checks import check_count, check_flag, check_int
from gpucnn.data import Dataset
from gpucnn.errors import DataError, ParameterError, kind_of


class DataLoader:
    """Batches (inputs, targets) of a data set, as tensors on a device: ``for x, y in DataLoader(data, batch_size=32)``.

    dataset: a ``data.Dataset``, or any object with ``len`` whose items by index are pairs of arrays or numbers. shuffle: in
    an order of its own in each epoch, the same for the same seed. drop_last: leave out a last batch that is not full.
    transform: a function of the inputs of a batch, an array (B, ...); by default uint8 becomes float32 from 0 to 1 and all
    else stays. device: by default that of ``gpucnn.use``. ``training.Loop`` takes it as its batches.

    Raises ParameterError for wrong arguments, DataError for an empty data set or items that are no pairs.

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
        device: str | Backend | None = None,
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
        self.seed, self.epoch = abs(check_int(seed, where, "seed")), 0
        self.backend = get_backend(device)
        if not len(self):
            raise DataError.expected(where, "dataset", "at least one batch", f"{len(dataset)} examples")

    def __len__(self) -> int:
        """Return the number of batches."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        self.epoch += 1
        for first in range(0, len(self) * self.batch_size, self.batch_size):
            inputs, targets = self._items(order[first : first + self.batch_size])
            yield tensor(self._transformed(inputs), device=self.backend), tensor(targets, device=self.backend)

    def _items(self, indices: Any) -> tuple[Any, Any]:
        if isinstance(self.dataset, Dataset):
            return self.dataset[indices]
        pairs = [self.dataset[int(index)] for index in indices]
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise DataError.expected("DataLoader", "items", "pairs of inputs and targets", kind_of(pairs[0]))
        inputs, targets = (
            np.stack([one.numpy() if isinstance(one, Tensor) else np.asarray(one) for one in part])
            for part in zip(*pairs, strict=True)
        )
        return inputs, targets

    def _transformed(self, inputs: Any) -> Any:
        if self.transform is not None:
            return self.transform(inputs)
        return inputs.astype(np.float32) / np.float32(255) if inputs.dtype == np.uint8 else inputs
