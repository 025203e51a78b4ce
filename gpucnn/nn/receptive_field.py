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

from gpucnn.backend import Window
from gpucnn.backend.geometry import Pair

Reads = Callable[[int], Iterable[int]]

NOTHING = 2**62
"""The low end, and below zero the high end, of what a pixel sees that a transposed convolution leaves empty."""


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

    def window(self, window: Window) -> Field | None:
        """Return the field after a sliding window; None for what is no map any more."""
        if self.flat:
            return None
        top, _, left, _ = window.padding
        (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
        rows, columns = self.rows.window(KH, SH, top, DH), self.columns.window(KW, SW, left, DW)
        return Field(window.output_size(*self.size), rows, columns)

    def bins(self, rows: int, columns: int) -> Field:
        """Return the field after the map is cut into so many bins."""
        (H, W), size = self.size, (rows, columns)
        return replace(self, size=size, rows=self.rows.bins(H, rows), columns=self.columns.bins(W, columns))

    def flattened(self) -> Field:
        """Return the field once the map is a list of numbers."""
        return replace(self, flat=True)

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
