"""Dropout."""

from __future__ import annotations

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import Generator
from gpucnn.checks import check_flag, check_probability
from gpucnn.nn.layer import Layer


class Dropout(Layer):
    """In training, each element is 0 with probability p and otherwise divided by 1 - p; see ``functional.dropout``.

    >>> import gpucnn
    >>> Dropout(0.5).eval()(gpucnn.tensor([1.0])).tolist()
    [1.0]
    """

    elementwise = True
    always_shown = ("p",)

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, generator: Generator | None = None, name: str | None = None
    ) -> None:
        super().__init__(name)
        check_flag(inplace, type(self).__name__, "inplace")
        self.p, self.generator = check_probability(p, type(self).__name__, "p"), generator

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, self.training, self.generator)


class Dropout2d(Dropout):
    """In training, each channel of each image is 0 with probability p; see ``functional.dropout2d``.

    >>> import gpucnn
    >>> Dropout2d(0.5).eval()(gpucnn.tensor([[[[1.0]]]])).tolist()
    [[[[1.0]]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x, self.p, self.training, self.generator)
