"""Receptive fields: which pixels of the image a pixel of a feature map depends on, by the sizes of the layers alone.

Rows and columns are followed apart. Of a map, pixel i sees the image's pixels ``low(i)`` to ``high(i)``, which are known
exactly: they repeat, so many pixels further on, after a period that is 1 until a transposed convolution makes neighbours
differ. Every layer says which pixels of its input its pixel i reads; all between the first and the last that these see, it
sees. Nothing is cut off at the image's edge: padding that is seen counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpucnn import nn
from gpucnn.backend import Window
from gpucnn.backend.geometry import Pair
from gpucnn.functional.arguments import Padding, pair, sides

Reads = Callable[[int], Iterable[int]]

NOTHING = 2**62
"""The low end, and below zero the high end, of what a pixel sees that a transposed convolution leaves empty."""

ELEMENTWISE = (
    nn.Activation, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.GroupNorm, nn.Identity, nn.LayerNorm, nn.ReLU,
    nn.Sigmoid, nn.Softmax, nn.Tanh,
)  # fmt: skip
"""Layers that leave receptive fields as they are; the statistics of normalisation layers do not count."""

ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.GlobalAvgPool2d, nn.GlobalMaxPool2d)
WINDOWED = (nn.AvgPool2d, nn.CentrePool2d, nn.Conv2d, nn.LPPool2d, nn.MaxPool2d)


@dataclass(frozen=True)
class Axis:
    """One axis of a map: what the pixels of a period see, and by how much that moves on from period to period."""

    lows: tuple[int, ...] = (0,)
    highs: tuple[int, ...] = (0,)
    advance: int = 1

    @property
    def period(self) -> int:
        return len(self.lows)

    @property
    def pixels(self) -> int:
        """Pixels of the image that one pixel sees: of those that see different numbers, the most."""
        return max(high - low for low, high in zip(self.lows, self.highs, strict=True)) + 1

    @property
    def step(self) -> float:
        """Pixels of the image from one pixel to the next."""
        return self.advance / self.period

    def low(self, i: int) -> int:
        return self.lows[i % self.period] + i // self.period * self.advance

    def high(self, i: int) -> int:
        return self.highs[i % self.period] + i // self.period * self.advance

    def through(self, outputs: int, inputs: int, reads: Reads) -> Axis:
        """Return the axis after a layer: ``reads`` moves on by so many ``inputs`` for every so many ``outputs``."""
        rounds = self.period // math.gcd(self.period, inputs)
        read = [list(reads(i)) for i in range(outputs * rounds)]
        return Axis(
            tuple(min(map(self.low, pixels), default=NOTHING) for pixels in read),
            tuple(max(map(self.high, pixels), default=-NOTHING) for pixels in read),
            self.advance * inputs * rounds // self.period,
        )

    def window(self, kernel: int, stride: int, before: int, dilation: int) -> Axis:
        """Return the axis after a sliding window that begins ``before`` pixels outside."""
        return self.through(1, stride, lambda i: (i * stride - before + t * dilation for t in range(kernel)))

    def transposed(self, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
        """Return the axis after a transposed convolution, whose pixel j adds to j stride + t dilation - padding."""

        def reads(i: int) -> Iterable[int]:
            places = (i + padding - t * dilation for t in range(kernel))
            return (place // stride for place in places if place % stride == 0)

        return self.through(stride, 1, reads)

    def bins(self, n: int, count: int) -> Axis:
        """Return the axis after n pixels are cut into so many bins."""
        common = math.gcd(n, count)
        return self.through(count // common, n // common, lambda i: range(i * n // count, -(-(i + 1) * n // count)))

    def joined(self, other: Axis) -> Axis | None:
        """Return what sees all that either sees; None where their pixels do not lie side by side."""
        period = math.lcm(self.period, other.period)
        advance = self.advance * period // self.period
        if other.advance * period // other.period != advance:
            return None
        return Axis(
            tuple(min(self.low(i), other.low(i)) for i in range(period)),
            tuple(max(self.high(i), other.high(i)) for i in range(period)),
            advance,
        )


@dataclass(frozen=True)
class Field:
    """What a pixel of a map of ``size`` (rows, columns) sees; ``flat`` once the map is a list of numbers."""

    size: Pair
    rows: Axis = Axis()
    columns: Axis = Axis()
    flat: bool = False

    @property
    def pixels(self) -> Pair:
        """Rows and columns of the image that one pixel sees."""
        return self.rows.pixels, self.columns.pixels

    @property
    def stride(self) -> tuple[float, float] | None:
        """Pixels of the image from one pixel of the map to the next; None for what is no map any more."""
        return None if self.flat else (self.rows.step, self.columns.step)


def merged(fields: Sequence[Field | None]) -> Field | None:
    """Return the field of a sum or concatenation of maps: all that any of them sees; None where one is not known."""
    whole: Field | None = fields[0]
    for field in fields[1:]:
        if whole is None or field is None:
            return None
        rows, columns = whole.rows.joined(field.rows), whole.columns.joined(field.columns)
        whole = None if rows is None or columns is None else replace(whole, rows=rows, columns=columns)
    return whole


def map_size(shape: tuple[int, ...]) -> Pair:
    """Return rows and columns of (N, C, H, W), or of (N, C, L), which has one row."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, shape[-1])


def after_layer(layer: nn.Module, field: Field | None, y_shape: tuple[int, ...]) -> Field | None:
    """Return the field of the output of a layer whose input has ``field``; None where it cannot be told."""
    if field is None:
        return None
    if isinstance(layer, ELEMENTWISE):
        return field
    if isinstance(layer, nn.Flatten):
        return replace(field, flat=True)
    if isinstance(layer, nn.Linear):
        return _adaptive(layer, field, (1, 1)) if field.flat else None
    if field.flat or len(y_shape) not in (3, 4):
        return None
    for kinds, rule in RULES:
        if isinstance(layer, kinds):
            return rule(layer, field, map_size(y_shape))
    return None


def _windowed(layer: Any, field: Field, size: Pair) -> Field:
    where = type(layer).__name__
    kernel = pair(layer.kernel_size, where, "kernel_size")
    stride = pair(kernel if layer.stride is None else layer.stride, where, "stride")
    dilation = pair(getattr(layer, "dilation", 1), where, "dilation")
    return _after_window(field, size, Window(kernel, stride, dilation=dilation), layer.padding)


def _conv1d(layer: Any, field: Field, size: Pair) -> Field:
    window = Window((1, layer.kernel_size), (1, layer.stride), dilation=(1, layer.dilation))
    return _after_window(field, size, window, layer.padding if isinstance(layer.padding, str) else (0, layer.padding))


def _after_window(field: Field, size: Pair, window: Window, padding: Padding) -> Field:
    top, _, left, _ = sides(padding, window, *field.size, "summary")
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    return Field(size, field.rows.window(KH, SH, top, DH), field.columns.window(KW, SW, left, DW))


def _transposed(layer: Any, field: Field, size: Pair) -> Field:
    (KH, KW), (SH, SW), (PH, PW), (DH, DW) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    return Field(size, field.rows.transposed(KH, SH, PH, DH), field.columns.transposed(KW, SW, PW, DW))


def _adaptive(layer: Any, field: Field, size: Pair) -> Field:
    (H, W), (OH, OW) = field.size, size
    return Field(size, field.rows.bins(H, OH), field.columns.bins(W, OW), field.flat)


RULES: tuple[tuple[Any, Callable[[Any, Field, Pair], Field]], ...] = (
    (WINDOWED, _windowed),
    (nn.Conv1d, _conv1d),
    (nn.ConvTranspose2d, _transposed),
    (ADAPTIVE, _adaptive),
)
