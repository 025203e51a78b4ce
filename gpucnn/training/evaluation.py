"""Evaluation of a network on a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucnn import functional as F
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


def evaluate(net: Module, feed: Loader, batch_size: int = BATCH) -> Evaluation:
    """Evaluate ``net``, in evaluation mode, on all images of ``feed``; the modes of its layers are restored.

    DataError without an image. DivergedError where an output is no number: what it would be counted as says nothing.
    """
    if not len(feed):
        raise DataError.expected("evaluate", "data set", "at least one image", "none")
    totals, kept = LossAndAccuracy(feed.backend), []
    with evaluating(net):
        batches = feed.batches(batch_size)
        for given in batches.epoch(0):
            x, y = batches.take(*given)
            logits = net(x)
            totals.update(F.cross_entropy(logits, y), logits, y)
            highest = F.softmax(logits).max(1)
            kept.append((y, logits.argmax(1), highest, F.cross_entropy(logits, y, reduction="none")))
    labels, predictions, confidences, losses = (
        np.concatenate([part.numpy() for part in parts]) for parts in zip(*kept, strict=True)
    )
    lost = np.count_nonzero(~np.isfinite(confidences))
    if lost:
        raise DivergedError(
            f"the network's outputs are not finite for {lost} of {len(feed)} images: its weights are damaged, "
            "or its training diverged."
        )
    return Evaluation(totals.loss, totals.accuracy, labels, predictions, confidences, losses)
