"""Epochs of ``train_step``: the batch, the step and its share of the totals, recorded together as one launch on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpucnn.autograd import Tensor
from gpucnn.captured import capture
from gpucnn.nn import Module
from gpucnn.optim import Optimizer
from gpucnn.training.feed import Feed
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.step import Totals, train_step


class Epochs:
    """Trains ``net`` on a feed, epoch by epoch. ``totals`` are those of the epoch under way; ``scale`` is for float16.

    >>> import numpy as np
    >>> from gpucnn import data, get_backend, nn, optim
    >>> from gpucnn.training import Normalisation
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> images = data.ArrayDataset(np.zeros((3, 2, 2), np.uint8), [0, 1, 1])
    >>> feed = Feed(images, get_backend("cpu"), Normalisation((0.0,), (1.0,)))
    >>> epochs = Epochs(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), feed, batch_size=2)
    >>> list(epochs.steps(feed.order(seed=0, epoch=0))), epochs.totals.count
    ([2, 1], 3)
    """

    def __init__(
        self, net: Module, loss_fn: Module, optimizer: Optimizer, feed: Feed, batch_size: int,
        scale: LossScale | None = None,
    ) -> None:  # fmt: skip
        self._net, self._loss_fn, self._optimizer, self._scale = net, loss_fn, optimizer, scale
        self.totals = Totals(feed.backend)
        self._batches = feed.batches(batch_size, self.totals)
        modules = [net, loss_fn] if scale is None else [net, loss_fn, scale]
        self._captured = capture(self._step, state=[*modules, optimizer, self.totals.sums])

    def steps(self, order: Any, start: int = 0, seed: tuple[int, ...] = ()) -> Iterator[int]:
        """Do the steps of an epoch from number ``start`` on; yield the number of images after each.

        order: host array of the indices of all images; ``seed`` decides how batches are augmented (see ``Feed``).
        """
        for given in self._batches.of(order, start, seed):
            self._captured(*given)
            yield given[0]

    def _step(self, count: int, *given: Tensor) -> None:
        x, y = self._batches.take(count, *given)
        loss, logits = train_step(self._net, self._loss_fn, self._optimizer, x, y, self._scale)
        self.totals.add(loss, logits, y)
