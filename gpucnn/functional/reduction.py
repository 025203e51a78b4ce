"""From the loss of each image to one number."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpucnn.backend import Array, Backend
from gpucnn.errors import ParameterError


def reduce_losses(backend: Backend, losses: Array, reduction: str) -> tuple[Array, Callable[[Array], Array]]:
    """Return the reduced losses, and a function from the gradient of that to the gradient of each loss."""
    xp, shape = backend.xp, losses.shape
    if reduction == "none":
        return losses, lambda dy: dy
    total = xp.asarray(losses.sum())
    if reduction == "sum":
        return total, lambda dy: xp.broadcast_to(dy, shape)
    count = losses.size or math.nan  # the mean of nothing is NaN, without a warning about 0 / 0
    return total / count, lambda dy: xp.broadcast_to(dy / count, shape)


def check_reduction(reduction: str, where: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ParameterError.expected(where, "reduction", "'mean', 'sum' or 'none'", repr(reduction))
