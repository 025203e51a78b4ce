"""Running metrics of an epoch, kept on the device, and the loss scale for float16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation


@operation()
def update_metrics(device: Device, sums: Array, loss: Array, logits: Array, labels: Array) -> None:
    """Add a batch with mean ``loss`` to ``sums`` (4,) float64: sum of losses, correct, images, last loss."""
    count = len(labels)
    sums[0] += loss.astype(sums.dtype) * count
    sums[1] += (logits.argmax(1) == labels).sum()
    sums[2] += count
    sums[3] = loss


@operation()
def add_loss(device: Device, sums: Array, loss: Array, count: int) -> None:
    """Add a batch of ``count`` images with mean ``loss`` to ``sums`` (3,): sum of losses, images, last loss."""
    sums[0] += loss.astype(sums.dtype) * count
    sums[1] += count
    sums[2] = loss


@operation()
def add_each(device: Device, sums: Array, values: Sequence[Any]) -> None:
    """Add a number or a 0-d array to each element of ``sums``."""
    for i, value in enumerate(values):
        sums[i] += value if isinstance(value, (int, float)) else value.astype(sums.dtype)


@operation()
def count_top_k(device: Device, scores: Array, labels: Array, k: int) -> Array:
    """Return for how many rows of (N, C) scores the label is among the ``k`` largest; ties favour the lower index."""
    xp = device.xp
    rows, columns = xp.arange(len(labels)), xp.arange(scores.shape[1])
    own = scores[rows, labels][:, None]
    ahead = ~(scores <= own) | ((scores == own) & (columns < labels[:, None]))  # NaN ranks first
    return (ahead.sum(1) < k).sum()


@operation()
def confusion(device: Device, labels: Array, predicted: Array, classes: int) -> Array:
    """Return the confusion matrix, (classes, classes) float32: labels in rows, predictions in columns."""
    numbers = device.xp.arange(classes)
    is_label, is_predicted = ((some.reshape(-1)[:, None] == numbers).astype(np.float32) for some in (labels, predicted))
    return is_label.T @ is_predicted


@operation()
def adjust_scale(device: Device, scale: Array, good: Array, finite: Array, most: float, grow_after: int) -> None:
    """Adjust the loss scale in place: halve it after a non-finite step, double it after ``grow_after`` finite ones.

    scale, good: 0-d arrays; ``good`` counts the finite steps since the last change.
    """
    xp = device.xp
    count = xp.where(finite, good + 1, xp.zeros_like(good))
    grows = count >= grow_after
    grown = xp.where(grows, xp.minimum(scale * 2, xp.full_like(scale, most)), scale)
    scale[...] = xp.where(finite, grown, xp.maximum(scale / 2, xp.ones_like(scale)))
    good[...] = xp.where(grows, xp.zeros_like(good), count)
