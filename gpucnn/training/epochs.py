"""``Epochs``, the loop of version 0.1.0, on top of ``Loop``: the steps of one epoch at a time, in a given order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpucnn.nn import Module
from gpucnn.optim import Optimizer
from gpucnn.training.loader import Loader
from gpucnn.training.loop import Loop
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.metrics import LossAndAccuracy


class Epochs:
    """Trains ``net`` epoch by epoch. ``totals`` are those of the epoch under way; ``scale`` is for float16.

    >>> import numpy as np
    >>> from gpucnn import data, get_backend, nn, optim
    >>> from gpucnn.training import Normalisation
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images = data.ArrayDataset(np.zeros((3, 2, 2), np.uint8), [0, 1, 1])
    >>> loader = Loader(images, get_backend("cpu"), Normalisation((0.0,), (1.0,)))
    >>> epochs = Epochs(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), loader, batch_size=2)
    >>> list(epochs.steps(loader.order(seed=0, epoch=0))), epochs.totals.count
    ([2, 1], 3)
    """

    def __init__(
        self, net: Module, loss_fn: Module, optimizer: Optimizer, feed: Loader, batch_size: int,
        scale: LossScale | None = None,
    ) -> None:  # fmt: skip
        self.totals = LossAndAccuracy()
        self._batches = feed.batches(batch_size)
        self._loop = Loop(net, loss_fn, optimizer, self._batches, [self.totals], scale=scale)

    def steps(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[int]:
        """Do the steps of an epoch from number ``start`` on; yield the number of images after each.

        order: host array of the indices of all images; ``seed`` decides how batches are augmented (see ``Loader``).
        """
        for given in self._batches.of(order, start, seed):
            self._loop.do_step(*given)
            yield given[0]
