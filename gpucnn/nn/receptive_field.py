"""Receptive fields: the image pixels that a pixel of a feature map depends on, computed from the layers' sizes.

Rows and columns are computed separately. Pixel i of a map sees the image pixels ``low(i)`` to ``high(i)``. These bounds are
exact and periodic: after ``period`` pixels of the map they repeat, shifted by ``advance`` pixels of the image. The period
is 1 unless a transposed convolution makes neighbours differ. Each layer gives the input pixels that its pixel i reads; the
pixel then sees everything from the lowest to the highest bound of these. Padding counts as part of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from gpucnn.backend import Window
from gpucnn.backend.geometry import Pair

Reads = Callable[[int], Iterable[int]]

NOTHING = 2**62
"""The low bound, and negated the high bound, of a pixel that sees nothing, as in transposed convolutions."""


@dataclass(frozen=True)
class Axis:
    """One axis of a map: the bounds of the pixels of one period, and their shift from period to period."""

    lows: tuple[int, ...] = (0,)
    highs: tuple[int, ...] = (0,)
    advance: int = 1

    @property
    def period(self) -> int:
        return len(self.lows)

    @property
    def pixels(self) -> int:
        """The number of image pixels that one pixel sees: the maximum over the period."""
        return max(high - low for low, high in zip(self.lows, self.highs, strict=True)) + 1

    @property
    def step(self) -> float:
        """The distance between neighbouring pixels, in image pixels."""
        return self.advance / self.period

    def low(self, i: int) -> int:
        return self.lows[i % self.period] + i // self.period * self.advance

    def high(self, i: int) -> int:
        return self.highs[i % self.period] + i // self.period * self.advance

    def through(self, outputs: int, inputs: int, reads: Reads) -> Axis:
        """Return the axis after a layer. ``reads`` shifts by ``inputs`` pixels for every ``outputs`` pixels."""
        rounds = self.period // math.gcd(self.period, inputs)
        read = [list(reads(i)) for i in range(outputs * rounds)]
        return Axis(
            tuple(min(map(self.low, pixels), default=NOTHING) for pixels in read),
            tuple(max(map(self.high, pixels), default=-NOTHING) for pixels in read),
            self.advance * inputs * rounds // self.period,
        )

    def window(self, kernel: int, stride: int, before: int, dilation: int) -> Axis:
        """Return the axis after a sliding window that starts ``before`` pixels outside the map."""
        return self.through(1, stride, lambda i: (i * stride - before + t * dilation for t in range(kernel)))

    def transposed(self, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
        """Return the axis after a transposed convolution, whose pixel j adds to j stride + t dilation - padding."""

        def reads(i: int) -> Iterable[int]:
            positions = (i + padding - t * dilation for t in range(kernel))
            return (position // stride for position in positions if position % stride == 0)

        return self.through(stride, 1, reads)

    def bins(self, n: int, count: int) -> Axis:
        """Return the axis after splitting n pixels into ``count`` bins."""
        common = math.gcd(n, count)
        return self.through(count // common, n // common, lambda i: range(i * n // count, -(-(i + 1) * n // count)))

    def joined(self, other: Axis) -> Axis | None:
        """Return the union of both axes; None if their pixels are not aligned."""
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
    """The receptive field of a pixel of a map of ``size`` (rows, columns). ``flat``: the map has been flattened."""

    size: Pair
    rows: Axis = Axis()
    columns: Axis = Axis()
    flat: bool = False

    def window(self, window: Window) -> Field | None:
        """Return the field after a sliding window; None if the map has been flattened."""
        if self.flat:
            return None
        top, _, left, _ = window.padding
        (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
        rows, columns = self.rows.window(KH, SH, top, DH), self.columns.window(KW, SW, left, DW)
        return Field(window.output_size(*self.size), rows, columns)

    def bins(self, rows: int, columns: int) -> Field:
        """Return the field after splitting the map into this many bins."""
        (H, W), size = self.size, (rows, columns)
        return replace(self, size=size, rows=self.rows.bins(H, rows), columns=self.columns.bins(W, columns))

    def flattened(self) -> Field:
        """Return the field after flattening the map."""
        return replace(self, flat=True)

    @property
    def pixels(self) -> Pair:
        """The rows and columns of the image that one pixel sees."""
        return self.rows.pixels, self.columns.pixels

    @property
    def stride(self) -> tuple[float, float] | None:
        """The distance between neighbouring pixels of the map, in image pixels; None if the map has been flattened."""
        return None if self.flat else (self.rows.step, self.columns.step)


def merged(fields: Sequence[Field | None]) -> Field | None:
    """Return the field of a sum or concatenation of maps: the union of their fields; None if one is unknown."""
    whole: Field | None = fields[0]
    for field in fields[1:]:
        if whole is None or field is None:
            return None
        rows, columns = whole.rows.joined(field.rows), whole.columns.joined(field.columns)
        whole = None if rows is None or columns is None else replace(whole, rows=rows, columns=columns)
    return whole


def map_size(shape: tuple[int, ...]) -> Pair:
    """Return rows and columns of (N, C, H, W), or of (N, C, L) as one row."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, shape[-1])
