"""Convolution layers. Sizes, padding and errors are those of the functions with the same names."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import Backend, Window
from gpucnn.backend.geometry import Pair
from gpucnn.checks import check_choice, check_count, check_flag, is_flag, shown
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.arguments import (
    Padding,
    PairLike,
    Single,
    check_float,
    image_batch,
    image_row,
    pair,
    plain_padding,
    read_window,
    row_padding,
    sides,
    single,
    unbatch,
)
from gpucnn.functional.conv import check_implementation, check_output_padding
from gpucnn.nn.layer import Shape, Weighted, images_of
from gpucnn.nn.receptive_field import Field


class ConvNd(Weighted):
    """Base class of convolutions of images, or of sequences (images with one row): sizes, channels, groups.

    A subclass calls ``_set_channels`` and ``_set_window`` before the parameters are made.
    """

    dimensions: ClassVar[int] = 2
    in_channels: int | None
    out_channels: int
    groups: int
    kernel_size: Pair | int
    stride: Pair | int
    padding: Padding
    dilation: Pair | int

    def _set_channels(self, in_channels: int | None, out_channels: int, groups: int) -> None:
        where = type(self).__name__
        self.out_channels = check_count(out_channels, where, "out_channels")
        self.in_channels = None if in_channels is None else check_count(in_channels, where, "in_channels")
        self.groups = check_count(groups, where, "groups")
        if self.out_channels % self.groups or (self.in_channels or self.groups) % self.groups:
            words = f"a positive divisor of {in_channels} and {out_channels} channels"
            raise ParameterError.expected(where, "groups", words, shown(groups))

    def _set_window(self, kernel_size: PairLike, stride: PairLike, padding: Padding, dilation: PairLike) -> None:
        where = type(self).__name__
        read = pair if self.dimensions == 2 else single
        self.kernel_size = read(kernel_size, where, "kernel_size")
        self.stride, self.dilation = read(stride, where, "stride"), read(dilation, where, "dilation")
        if self.dimensions == 1 and not isinstance(padding, str):
            padding = single(padding, where, "padding", least=0)
        self.padding = padding
        kernel, steps, asked, spread = self._as_images()
        sides(asked, Window(kernel, steps, dilation=spread), 1, 1, where)
        self.padding = plain_padding(padding)

    def _as_images(self) -> tuple[Pair, Pair, Padding, Pair]:
        """Return kernel, stride, padding and dilation for images; a sequence is an image with one row."""
        if self.dimensions == 2:
            return self.kernel_size, self.stride, self.padding, self.dilation  # type: ignore[return-value]
        padding = row_padding(self.padding, type(self).__name__)  # type: ignore[arg-type]
        return (1, self.kernel_size), (1, self.stride), padding, (1, self.dilation)  # type: ignore[return-value]

    def weight_shape(self, in_size: int) -> Shape:
        self.in_channels = in_size * self.groups
        kernel = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,)
        return self.out_channels, in_size, *kernel

    def in_size_of(self, x: Tensor) -> int:
        where = type(self).__name__
        check_float(x, where)
        if self.dimensions == 2 and x.ndim == 2:  # perhaps rows of features: no channels are learnt from them
            raise ShapeError.expected(
                where, "input", "(N, C, H, W) or (C, H, W)", f"shape {x.shape}", "give in_channels=1"
            )
        channels = (image_batch(x, where) if self.dimensions == 2 else image_row(x, where))[0].shape[1]
        if not channels or channels % self.groups:
            words = f"channels in {self.groups} equal groups"
            raise ShapeError.expected(where, "input", words, f"{channels} channels")
        return channels // self.groups

    def window_on(self, size: Pair) -> Window:
        """Return the window for an image of this (H, W)."""
        return read_window(type(self).__name__, size, *self._as_images())

    def _output_size(self, size: Pair) -> Pair:
        return self.window_on(size).output_size(*size)

    def output_shape(self, shape: Shape) -> Shape:
        lead, size = images_of(type(self).__name__, shape, self.dimensions)
        if self.in_channels not in (None, lead[-1]):
            words = f"{self.in_channels} channels"
            raise ShapeError.expected(type(self).__name__, "input", words, f"shape {shape}")
        return *lead[:-1], self.out_channels, *self._output_size(size)[-self.dimensions :]

    def _windows(self, shape: Shape) -> int:
        """Return the number of windows that the filters are applied to: one for each output pixel."""
        y = self.output_shape(shape)
        return math.prod(y) // self.out_channels

    def _filter_size(self, shape: Shape) -> int:
        """Return the number of elements of one filter."""
        kernel, _, _, _ = self._as_images()
        channels: int = self.in_channels or shape[-self.dimensions - 1]
        return channels // self.groups * math.prod(kernel)

    def multiply_adds(self, shape: Shape) -> int:
        return self._windows(shape) * self.out_channels * self._filter_size(shape)

    def column_elements(self, shape: Shape) -> int:
        return self._windows(shape) * self._filter_size(shape) * self.groups

    def receptive_field(self, field: Field) -> Field | None:
        return None if field.flat else field.window(self.window_on(field.size))


def is_by_position(bias: Any, where: str, argument: str, size: Any) -> bool:
    """Whether there is one bias per output position; ParameterError for another kind of bias, or without the size."""
    if not is_flag(bias) and (not isinstance(bias, str) or bias not in ("channel", "position")):
        raise ParameterError.expected(where, "bias", "True, False, 'channel' or 'position'", shown(bias))
    by_position = isinstance(bias, str) and bias == "position"
    if by_position and size is None:
        raise ParameterError.expected(where, argument, "the size of the input for a bias per position", "none")
    return by_position


class Conv2d(ConvNd):
    """Cross-correlation: (N, C, H, W) -> (N, F, OH, OW); see ``functional.conv2d`` for sizes, padding and errors.

    in_channels=None takes the channels of the first input. Parameters: weight (F, C/groups, KH, KW), bias (F,).
    padding_mode: "zeros", "reflect" or "replicate". bias: True or "channel", False, or "position": one bias per output
    pixel, (F, OH, OW), which requires image_size, the input's (H, W). implementation: "auto", "im2col" or "loops".

    >>> import gpucnn
    >>> Conv2d(1, 6, 5, padding=2)(gpucnn.tensor([[[[0.0] * 28] * 28]])).shape
    (1, 6, 28, 28)
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: Padding = 0,
        dilation: PairLike = 1,
        groups: int = 1,
        bias: bool | str = True,
        padding_mode: str = "zeros",
        *,
        exact: bool = False,
        image_size: PairLike | None = None,
        implementation: str = "auto",
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        by_position = is_by_position(bias, "Conv2d", "image_size", image_size)
        super().__init__(bool(bias), device, dtype, name)
        self.image_size = pair(image_size, "Conv2d", "image_size") if image_size is not None and by_position else None
        self._set_channels(in_channels, out_channels, groups)
        self._set_window(kernel_size, stride, padding, dilation)
        self.exact = check_flag(exact, "Conv2d", "exact")
        self.padding_mode = check_choice(padding_mode, "Conv2d", "padding_mode", F.PADDING_MODES)
        check_implementation(implementation, "Conv2d")
        self.implementation = implementation
        if self.in_channels is not None:
            self.materialise(self.in_channels // self.groups)

    def argument(self, name: str) -> Any:
        return "position" if name == "bias" and self.image_size is not None else super().argument(name)

    def bias_shape(self) -> Shape:
        if self.image_size is None:
            return super().bias_shape()
        return self.out_channels, *self._output_size(self.image_size)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ready_for(x)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, added = image_batch(x, "Conv2d")
            window = self.window_on(x.shape[2:])  # type: ignore[arg-type]
            x, padding = unbatch(F.pad2d(x, window.padding, self.padding_mode), added), 0
        return F.conv2d(
            x, weight, self.bias, self.stride, padding, self.dilation, self.groups, self.exact, self.implementation
        )


class Conv1d(ConvNd):
    """Cross-correlation of sequences: (N, C, L) -> (N, F, OL). Parameters: weight (F, C/groups, K), bias (F,).

    kernel_size, stride, padding and dilation are an int or a tuple of one; padding may be "valid", "same" or "full".
    bias: True or "channel", False, or "position": one bias per output element, (F, OL), which requires length, the
    input's. implementation: "auto", "im2col" or "loops".

    >>> import gpucnn
    >>> Conv1d(1, 2, 3)(gpucnn.tensor([[[0.0] * 8]])).shape
    (1, 2, 6)
    """

    dimensions = 1

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Single,
        stride: Single = 1,
        padding: Single | str = 0,
        dilation: Single = 1,
        groups: int = 1,
        bias: bool | str = True,
        *,
        length: Single | None = None,
        implementation: str = "auto",
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        by_position = is_by_position(bias, "Conv1d", "length", length)
        super().__init__(bool(bias), device, dtype, name)
        self.length = single(length, "Conv1d", "length") if by_position else None
        self._set_channels(in_channels, out_channels, groups)
        self._set_window(kernel_size, stride, padding, dilation)
        check_implementation(implementation, "Conv1d")
        self.implementation = implementation
        if self.in_channels is not None:
            self.materialise(self.in_channels // self.groups)

    def argument(self, name: str) -> Any:
        return "position" if name == "bias" and self.length is not None else super().argument(name)

    def bias_shape(self) -> Shape:
        if self.length is None:
            return super().bias_shape()
        return self.out_channels, self._output_size((1, self.length))[1]

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ready_for(x)
        window: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return F.conv1d(x, weight, self.bias, groups=self.groups, implementation=self.implementation, **window)


class ConvTranspose2d(ConvNd):
    """Transposed convolution: (N, C, H, W) -> (N, F, OH, OW); see ``functional.conv_transpose2d``.

    Parameters: weight (C, F/groups, KH, KW), bias (F,). in_channels=None takes the channels of the first input.

    >>> import gpucnn
    >>> ConvTranspose2d(2, 3, 2, stride=2)(gpucnn.tensor([[[[0.0] * 4] * 4] * 2])).shape
    (1, 3, 8, 8)
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: PairLike = 0,
        output_padding: PairLike = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: PairLike = 1,
        *,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        where = "ConvTranspose2d"
        super().__init__(bias, device, dtype, name)
        self._set_channels(in_channels, out_channels, groups)
        self._set_window(kernel_size, stride, pair(padding, where, "padding", 0), dilation)
        self.output_padding = pair(output_padding, where, "output_padding", 0)
        _, steps, _, spread = self._as_images()
        check_output_padding(self.output_padding, steps, spread, where)
        if self.in_channels is not None:
            self.materialise(self.in_channels)

    def weight_shape(self, in_size: int) -> Shape:
        self.in_channels = in_size
        kernel, _, _, _ = self._as_images()
        return in_size, self.out_channels // self.groups, *kernel

    def bias_shape(self) -> Shape:
        return (self.out_channels,)

    def in_size_of(self, x: Tensor) -> int:
        return super().in_size_of(x) * self.groups

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ready_for(x)
        padding: Any = self.padding
        return F.conv_transpose2d(
            x, weight, self.bias, self.stride, padding, self.output_padding, self.groups, self.dilation
        )

    def _output_size(self, size: Pair) -> Pair:
        (KH, KW), (SH, SW), padding, (DH, DW) = self._as_images()
        (PH, PW), (XH, XW) = pair(padding, "ConvTranspose2d", "padding", 0), self.output_padding  # type: ignore[arg-type]
        OH = (size[0] - 1) * SH - 2 * PH + DH * (KH - 1) + XH + 1
        OW = (size[1] - 1) * SW - 2 * PW + DW * (KW - 1) + XW + 1
        if OH < 1 or OW < 1:
            raise ShapeError.expected("ConvTranspose2d", "output", "at least one pixel", f"{OH}x{OW}", "pad less")
        return OH, OW

    def _windows(self, shape: Shape) -> int:
        lead, size = images_of("ConvTranspose2d", shape, 2)
        return math.prod(lead[:-1]) * math.prod(size)

    def _filter_size(self, shape: Shape) -> int:
        kernel, _, _, _ = self._as_images()
        return self.out_channels // self.groups * math.prod(kernel)

    def multiply_adds(self, shape: Shape) -> int:
        channels: int = self.in_channels or shape[-3]
        return self._windows(shape) * channels * self._filter_size(shape)

    def receptive_field(self, field: Field) -> Field | None:
        if field.flat:
            return None
        (KH, KW), (SH, SW), padding, (DH, DW) = self._as_images()
        PH, PW = pair(padding, "ConvTranspose2d", "padding", 0)  # type: ignore[arg-type]
        rows, columns = field.rows.transposed(KH, SH, PH, DH), field.columns.transposed(KW, SW, PW, DW)
        return Field(self._output_size(field.size), rows, columns)
