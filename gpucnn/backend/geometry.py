"""The geometry that convolution and pooling share: the sliding window, and how its output is cut into parts.

Output size, for one axis of length ``n`` with padding ``before`` and ``after``, kernel ``k``, dilation ``d``, stride ``s``:

    floor((n + before + after - (d (k - 1) + 1)) / s) + 1
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

from gpucnn.errors import ShapeError

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]
Shape = tuple[int, int, int, int]
Cut = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel size, stride and dilation as (height, width); padding as (top, bottom, left, right)."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    extent: Pair = field(init=False, repr=False, compare=False)
    """Rows and columns of the input that one window spans."""
    largest: int = field(init=False, repr=False, compare=False)
    """The largest of all these numbers; compiled kernels have a bound."""

    def __post_init__(self) -> None:
        (KH, KW), (DH, DW) = self.kernel, self.dilation
        object.__setattr__(self, "extent", (DH * (KH - 1) + 1, DW * (KW - 1) + 1))
        numbers = (*self.kernel, *self.stride, *self.padding, *self.dilation)
        object.__setattr__(self, "largest", max(map(abs, numbers)))

    def padded_size(self, H: int, W: int) -> Pair:
        top, bottom, left, right = self.padding
        return H + top + bottom, W + left + right

    def output_size(self, H: int, W: int) -> Pair:
        """Return (OH, OW) for an H x W image; ShapeError if no window fits."""
        top, bottom, left, right = self.padding
        (EH, EW), (SH, SW) = self.extent, self.stride
        rows, columns = H + top + bottom - EH, W + left + right - EW
        if rows < 0 or columns < 0:
            raise ShapeError.expected(
                "window",
                "image",
                f"at least {EH}x{EW} pixels for a {self.kernel[0]}x{self.kernel[1]} kernel"
                + (f" with dilation {self.dilation}" if self.dilation != (1, 1) else ""),
                f"{H}x{W} with padding {self.padding}",
                "pad more, or use a smaller kernel",
            )
        return rows // SH + 1, columns // SW + 1

    def unused(self, H: int, W: int) -> Pair:
        """Rows and columns at the bottom and right of the padded image that no window reaches."""
        (PH, PW), (EH, EW), (SH, SW) = self.padded_size(H, W), self.extent, self.stride
        return (PH - EH) % SH, (PW - EW) % SW

    def with_padding(self, padding: Sides) -> Self:
        return replace(self, padding=padding)

    def flipped(self) -> Self:
        """Return the window of the convolution over dL/dy that gives the input gradient at stride 1."""
        (EH, EW), (top, bottom, left, right) = self.extent, self.padding
        return self.with_padding((EH - 1 - top, EH - 1 - bottom, EW - 1 - left, EW - 1 - right))


def steps_inside(offset: int, stride: int, out: int, length: int) -> tuple[slice, slice]:
    """Return the outputs i of one axis with 0 <= offset + i stride < length, and the inputs they see."""
    first = -(offset // stride) if offset < 0 else 0
    last = (length - 1 - offset) // stride
    if last >= out:
        last = out - 1
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(offset + first * stride, offset + last * stride + 1, stride)


# --- blocks of output pixels -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """A range of output rows and columns."""

    rows: slice
    columns: slice

    @property
    def size(self) -> Pair:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def moved_to_origin(self) -> Block:
        height, width = self.size
        return Block(slice(0, height), slice(0, width))

    def pixels(self, OW: int, N: int) -> slice:
        """Return the block as a range of flattened (OH, OW, N) pixels. The block must be whole rows or part of one row."""
        return slice(
            (self.rows.start * OW + self.columns.start) * N, ((self.rows.stop - 1) * OW + self.columns.stop) * N
        )

    def cut(self, height: int, width: int) -> list[Block]:
        """Split into blocks of ``height`` rows or, if that is 0, of ``width`` pixels of one row."""
        rows, columns = self.rows, self.columns
        if height > 0:
            return [Block(slice(i, min(i + height, rows.stop)), columns) for i in range(rows.start, rows.stop, height)]
        width = max(width, 1)
        return [
            Block(slice(i, i + 1), slice(j, min(j + width, columns.stop)))
            for i in range(rows.start, rows.stop)
            for j in range(columns.start, columns.stop, width)
        ]

    def seen(self, window: Window) -> Cut:
        """Return the rows and columns of the padded image that its windows see."""
        (SH, SW), (EH, EW) = window.stride, window.extent
        return (
            slice(self.rows.start * SH, (self.rows.stop - 1) * SH + EH),
            slice(self.columns.start * SW, (self.columns.stop - 1) * SW + EW),
        )


def elements(window: Window, block: Block, H: int, W: int) -> Iterator[tuple[int, int, Cut, Cut]]:
    """Yield each kernel element's row and column, the output pixels of the block that use it, and their input pixels."""
    (KH, KW), (DH, DW) = window.kernel, window.dilation
    (SH, SW), (top, _, left, _) = window.stride, window.padding
    first_row, first_column = block.rows.start * SH - top, block.columns.start * SW - left
    rows = [steps_inside(kh * DH + first_row, SH, block.size[0], H) for kh in range(KH)]
    columns = [steps_inside(kw * DW + first_column, SW, block.size[1], W) for kw in range(KW)]
    for kh, (out_rows, in_rows) in enumerate(rows):
        for kw, (out_columns, in_columns) in enumerate(columns):
            yield kh, kw, (out_rows, out_columns), (in_rows, in_columns)
