"""Sums over an epoch that stay on the device, and the scale of a float16 loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation


@operation()
def add_totals(device: Device, sums: Array, loss: Array, logits: Array, labels: Array) -> None:
    """Add a batch, of mean ``loss``, to ``sums`` (4,) float64: sum of losses, correct answers, images; the last loss."""
    count = len(labels)
    sums[0] += loss.astype(sums.dtype) * count
    sums[1] += (logits.argmax(1) == labels).sum()
    sums[2] += count
    sums[3] = loss


@operation()
def add_loss(device: Device, sums: Array, loss: Array, count: int) -> None:
    """Add a batch of ``count`` images, of mean ``loss``, to ``sums`` (3,): sum of losses, images; the last loss."""
    sums[0] += loss.astype(sums.dtype) * count
    sums[1] += count
    sums[2] = loss


@operation()
def add_each(device: Device, sums: Array, values: Sequence[Any]) -> None:
    """Add to each element of ``sums`` a number or an array of no dimensions."""
    for i, value in enumerate(values):
        sums[i] += value if isinstance(value, (int, float)) else value.astype(sums.dtype)


@operation()
def count_top_k(device: Device, scores: Array, labels: Array, k: int) -> Array:
    """Return for how many rows of (N, C) scores the label's is among the ``k`` largest; of equals the first is larger."""
    xp = device.xp
    rows, columns = xp.arange(len(labels)), xp.arange(scores.shape[1])
    own = scores[rows, labels][:, None]
    ahead = ~(scores <= own) | ((scores == own) & (columns < labels[:, None]))  # NaN is ahead of all
    return (ahead.sum(1) < k).sum()


@operation()
def confusion(device: Device, labels: Array, answers: Array, classes: int) -> Array:
    """Return how often each label (row) met each answer (column): (classes, classes) float32."""
    numbers = device.xp.arange(classes)
    met_labels, met_answers = ((some.reshape(-1)[:, None] == numbers).astype(np.float32) for some in (labels, answers))
    return met_labels.T @ met_answers


@operation()
def adjust_scale(device: Device, scale: Array, good: Array, finite: Array, most: float, grow_after: int) -> None:
    """Move the scale of a loss in place: half where the step was not finite, double after ``grow_after`` that were.

    scale, good: of no dimensions; ``good`` counts the finite steps since the last move.
    """
    xp = device.xp
    count = xp.where(finite, good + 1, xp.zeros_like(good))
    grows = count >= grow_after
    grown = xp.where(grows, xp.minimum(scale * 2, xp.full_like(scale, most)), scale)
    scale[...] = xp.where(finite, grown, xp.maximum(scale / 2, xp.ones_like(scale)))
    good[...] = xp.where(grows, xp.zeros_like(good), count)
