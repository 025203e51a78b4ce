"""From the loss of each image to one number."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpucnn.backend import Array, Backend
from gpucnn.backend.ops.reduction import divided
from gpucnn.checks import check_choice


def reduce_losses(backend: Backend, losses: Array, reduction: str) -> tuple[Array, Callable[[Array], Array]]:
    """Return the reduced losses, and a function from the gradient of that to the gradient of each loss."""
    xp, shape = backend.xp, losses.shape
    if reduction == "none":
        return losses, lambda dy: dy
    divisor = divisor_of(losses, reduction)
    return backend.mean_loss(losses, divisor), lambda dy: xp.broadcast_to(divided(dy, divisor), shape)


def divisor_of(losses: Array, reduction: str) -> float:
    """Return what the sum of the losses is divided by: the mean of nothing is NaN, without a warning about 0 / 0."""
    return (losses.size or math.nan) if reduction == "mean" else 1


def check_reduction(reduction: str, where: str) -> None:
    check_choice(reduction, where, "reduction", ("mean", "sum", "none"))
