"""The sliding window that convolution and pooling share: kernel, stride, padding, dilation and what they give.

Output size, for one axis of length ``n`` with padding ``before`` and ``after``, kernel ``k``, dilation ``d``, stride ``s``:

    floor((n + before + after - (d (k - 1) + 1)) / s) + 1
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from gpucnn.errors import ShapeError

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Kernel size, stride and dilation as (height, width); padding as (top, bottom, left, right)."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @property
    def extent(self) -> Pair:
        """Rows and columns of the input that one window spans."""
        (KH, KW), (DH, DW) = self.kernel, self.dilation
        return DH * (KH - 1) + 1, DW * (KW - 1) + 1

    def padded_size(self, H: int, W: int) -> Pair:
        top, bottom, left, right = self.padding
        return H + top + bottom, W + left + right

    def output_size(self, H: int, W: int) -> Pair:
        """Return (OH, OW) for an H x W image; ShapeError where not even one window fits."""
        (PH, PW), (EH, EW), (SH, SW) = self.padded_size(H, W), self.extent, self.stride
        if PH < EH or PW < EW:
            raise ShapeError.expected(
                "window",
                "image",
                f"at least {EH}x{EW} pixels for a {self.kernel[0]}x{self.kernel[1]} kernel"
                + (f" with dilation {self.dilation}" if self.dilation != (1, 1) else ""),
                f"{H}x{W} with padding {self.padding}",
                "pad more, or use a smaller kernel",
            )
        return (PH - EH) // SH + 1, (PW - EW) // SW + 1

    def unused(self, H: int, W: int) -> Pair:
        """Rows and columns at the bottom and right of the padded image that no window reaches."""
        (PH, PW), (EH, EW), (SH, SW) = self.padded_size(H, W), self.extent, self.stride
        return (PH - EH) % SH, (PW - EW) % SW

    def with_padding(self, padding: Sides) -> Self:
        return replace(self, padding=padding)
