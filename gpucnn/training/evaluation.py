"""Evaluation of a network on a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn import functional as F
from gpucnn.autograd import no_grad, tensor
from gpucnn.autograd.creation import concatenate
from gpucnn.distributed import Communicator
from gpucnn.errors import DataError, DivergedError
from gpucnn.nn import Module
from gpucnn.nn.module import evaluating
from gpucnn.training.loader import Loader
from gpucnn.training.metrics import LossAndAccuracy

BATCH = 1000


@dataclass
class Evaluation:
    """Mean loss, accuracy (0 to 1), and for each image (N,): label, prediction, its probability, loss."""

    loss: float
    accuracy: float
    labels: Any
    predictions: Any
    confidences: Any
    losses: Any

    def confusion(self, classes: int) -> Any:
        """Return the (classes, classes) counts: row = label, column = prediction."""
        counts = np.zeros((classes, classes), np.int64)
        np.add.at(counts, (self.labels, self.predictions), 1)
        return counts

    def worst(self, count: int) -> Any:
        """Return the indices of at most ``count`` mistakes with the highest losses, worst first: (M,) int64."""
        wrong = np.flatnonzero(self.labels != self.predictions)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")[:count]]


def evaluate(net: Module, feed: Loader, batch_size: int = BATCH, comm: Communicator | None = None) -> Evaluation:
    """Evaluate ``net``, in evaluation mode, on all images of ``feed``; the modes of its layers are restored.

    With a communicator each process evaluates some of the batches, and all return the same evaluation, bit by bit that of a
    single process. DataError without an image; DivergedError if an output is NaN, because its prediction means nothing.
    """
    if not len(feed):
        raise DataError.expected("evaluate", "data set", "at least one image", "none")
    comm = comm or Communicator()
    totals, kept = LossAndAccuracy(feed.backend), []
    count = -(-len(feed) // batch_size)
    own = range(count * comm.rank // comm.size, count * (comm.rank + 1) // comm.size)
    sums = []
    with evaluating(net):
        batches = feed.batches(batch_size)
        for _, given in zip(own, batches.epoch(0, own.start), strict=False):
            x, y = batches.take(*given)
            logits = net(x)
            with no_grad():
                totals.sums[...] = 0.0
            totals.update(F.cross_entropy(logits, y), logits, y)
            sums.append(totals.sums.clone())
            highest = F.softmax(logits).max(1)
            kept.append((y, logits.argmax(1), highest, F.cross_entropy(logits, y, reduction="none")))
    rows = np.zeros((count, totals.sums.size))  # a row for each batch, filled by one process and 0 in the others
    if sums:
        rows[own.start : own.stop] = concatenate([one.reshape(1, -1) for one in sums]).numpy()
    with no_grad():
        totals.sums.copy_(tensor(_added(_summed(rows, feed, comm)), device=feed.backend))
    labels, predictions, confidences, losses = _gathered(kept, own.start * batch_size, feed, comm)
    lost = np.count_nonzero(~np.isfinite(confidences))
    if lost:
        raise DivergedError(
            f"the network's outputs are not finite for {lost} of {len(feed)} images: its weights are damaged, "
            "or its training diverged."
        )
    return Evaluation(totals.loss, totals.accuracy, labels, predictions, confidences, losses)


def _added(rows: Any) -> Any:
    """Return the sums of all batches, added one after the other; the last of them is the last batch's."""
    total = np.zeros(rows.shape[1])
    for row in rows:
        total += row
    total[-1] = rows[-1][-1]
    return total


def _gathered(kept: list[Any], first: int, feed: Loader, comm: Communicator) -> list[Any]:
    """Return the values of all images, of which this process has those from ``first`` on."""
    dtypes = [np.int64, np.int64, np.float32, np.float32]
    own = [np.concatenate([part.numpy() for part in parts]) for parts in zip(*kept, strict=True)]
    if comm.size == 1:
        return own
    found = []
    for number, dtype in enumerate(dtypes):
        values = np.zeros(len(feed))
        if own:
            values[first : first + len(own[number])] = own[number]
        found.append(_summed(values, feed, comm).astype(own[number].dtype if own else dtype))
    return found


def _summed(values: Any, feed: Loader, comm: Communicator) -> Any:
    """Return the sum of an array over the processes, which each have zeros where others have values."""
    if comm.size == 1:
        return values
    array = feed.backend.asarray(values)
    comm.all_reduce(array)
    return feed.backend.to_host(array)
