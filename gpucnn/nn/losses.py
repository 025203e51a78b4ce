"""Losses as modules; the arithmetic is in ``gpucnn.functional``."""

from __future__ import annotations

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.functional.loss import check_reduction
from gpucnn.nn.module import Module


class CrossEntropyLoss(Module):
    """-log softmax(input)[target] of (N, C) logits and (N,) integers or (N, C) weights; see ``functional.cross_entropy``.

    >>> import gpucnn
    >>> CrossEntropyLoss()(gpucnn.tensor([[0.0, 0.0]]), gpucnn.tensor([1])).item()
    0.6931471824645996
    """

    def __init__(self, reduction: str = "mean", *, name: str | None = None) -> None:
        super().__init__(name)
        check_reduction(reduction, "CrossEntropyLoss")
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(input, target, self.reduction)


class MSELoss(Module):
    """(input - target)^2 of two tensors of one shape; see ``functional.mse_loss``.

    >>> import gpucnn
    >>> MSELoss()(gpucnn.tensor([1.0, 3.0]), gpucnn.tensor([1.0, 1.0])).item()
    2.0
    """

    def __init__(self, reduction: str = "mean", *, name: str | None = None) -> None:
        super().__init__(name)
        check_reduction(reduction, "MSELoss")
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, self.reduction)
