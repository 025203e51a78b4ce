"""Logits for each pixel, or for one example alone, as the rows (N, C) that losses of classes take."""

from __future__ import annotations

from collections.abc import Callable

from gpucnn.autograd import Tensor
from gpucnn.errors import ShapeError


def by_rows(
    loss: Callable[[Tensor, Tensor], Tensor], input: Tensor, target: Tensor, where: str, reduced: bool
) -> Tensor:
    """Return the loss of (C,) or (N, C, d1, d2, ...) logits; target: integers of that shape without C, or probabilities.

    ``loss`` takes (N, C) logits and their targets. reduced: whether it returns a number rather than one for each row.

    >>> import gpucnn
    >>> from gpucnn.functional import cross_entropy
    >>> by_rows(cross_entropy, gpucnn.zeros(1, 2, 3, 3), gpucnn.zeros(1, 3, 3, dtype="int64"), "loss", True).item()
    0.6931471824645996
    """
    alone = input.ndim == 1
    single, lengths = (0, ()) if alone else (1, (input.shape[0], *input.shape[2:]))
    if target.shape not in (lengths, input.shape) or (target.shape == lengths) == (target.dtype.kind == "f"):
        words = f"integers of shape {lengths} or probabilities of shape {input.shape}"
        raise ShapeError.expected(where, "target", words, f"{target.dtype} of shape {target.shape}")
    y = loss(_rows(input, single), target.reshape(-1) if target.dtype.kind != "f" else _rows(target, single))
    return y if reduced else y.reshape(lengths)


def _rows(x: Tensor, axis: int) -> Tensor:
    """Return (rows, C), the class axis moved to the end."""
    return x.permute(*(i for i in range(x.ndim) if i != axis), axis).reshape(-1, x.shape[axis])
