"""The fully connected layer, and flattening."""

from __future__ import annotations

import math
from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import Backend
from gpucnn.checks import check_count, check_int
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import (
    check_float,
)
from gpucnn.nn.layer import Layer, Shape, Weighted
from gpucnn.nn.receptive_field import Field


class Linear(Weighted):
    """Fully connected: (..., I) -> (..., O). in_features=None takes the size of the first input.

    >>> import gpucnn
    >>> Linear(3, 2)(gpucnn.tensor([[1.0, 2.0, 3.0]])).shape
    (1, 2)
    """

    def __init__(
        self,
        in_features: int | None,
        out_features: int,
        bias: bool = True,
        *,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        out_features = check_count(out_features, "Linear", "out_features")
        if in_features is not None:
            in_features = check_count(in_features, "Linear", "in_features")
        super().__init__(bias, device, dtype, name)
        self.in_features, self.out_features = in_features, out_features
        if in_features is not None:
            self.materialise(in_features)

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        self.in_features = in_size
        return self.out_features, in_size

    def in_size_of(self, x: Tensor) -> int:
        check_float(x, "Linear")
        if not x.ndim or not x.shape[-1]:
            raise ShapeError.expected("Linear", "input", "at least one feature in the last axis", f"shape {x.shape}")
        return x.shape[-1]

    def output_shape(self, shape: Shape) -> Shape:
        if not shape or self.in_features not in (None, shape[-1]):
            words = f"{self.in_features} features in the last axis"
            raise ShapeError.expected("Linear", "input", words, f"shape {shape}")
        return *shape[:-1], self.out_features

    def multiply_adds(self, shape: Shape) -> int:
        return math.prod(shape) * self.out_features

    def receptive_field(self, field: Field) -> Field | None:
        return field.bins(1, 1) if field.flat else None

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.ready_for(input), self.bias)


class Flatten(Layer):
    """Merges the axes from start_dim to end_dim into one: (N, C, H, W) -> (N, C*H*W).

    >>> import gpucnn
    >>> Flatten()(gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).shape
    (1, 4)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.start_dim = check_int(start_dim, "Flatten", "start_dim")
        self.end_dim = check_int(end_dim, "Flatten", "end_dim")

    def output_shape(self, shape: Shape) -> Shape:
        first, last = self.start_dim % len(shape), self.end_dim % len(shape)
        return *shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]

    def receptive_field(self, field: Field) -> Field | None:
        return field.flattened()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start_dim, self.end_dim)
