"""Pooling layers. Sizes, padding and errors are those of the functions with the same names."""

from __future__ import annotations

from typing import ClassVar

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import Window
from gpucnn.backend.geometry import Pair
from gpucnn.checks import check_flag, check_positive
from gpucnn.functional.arguments import Padding, PairLike, Single, pair, plain_padding, single
from gpucnn.functional.pool import adaptive_size, check_divisor, pooling_sides, pooling_window, row_window
from gpucnn.nn.layer import Layer, Shape, images_of
from gpucnn.nn.receptive_field import Field


class PoolNd(Layer):
    """Base class of pooling with a sliding window over images, or over sequences (images with one row)."""

    always_shown = ("padding",)
    dimensions: ClassVar[int] = 2
    kernel_size: Pair | int
    stride: Pair | int
    padding: Padding
    dilation: Pair | int
    ceil_mode: bool

    def _set_window(
        self,
        kernel_size: PairLike,
        stride: PairLike | None,
        padding: Padding,
        dilation: PairLike,
        ceil_mode: bool,
    ) -> None:
        """Check and store the common arguments; ParameterError for a window that is impossible for every image."""
        where = type(self).__name__
        if self.dimensions == 1:
            self.kernel_size = single(kernel_size, where, "kernel_size")
            self.stride = self.kernel_size if stride is None else single(stride, where, "stride")
            self.dilation = single(dilation, where, "dilation")
            padding = single(padding, where, "padding", least=0)
        else:
            self.kernel_size = pair(kernel_size, where, "kernel_size")
            self.stride = self.kernel_size if stride is None else pair(stride, where, "stride")
            self.dilation = pair(dilation, where, "dilation")
        self.ceil_mode, self.padding = check_flag(ceil_mode, where, "ceil_mode"), padding
        kernel, steps, sides, spread = self._as_images()
        pooling_sides(where, (1, 1), Window(kernel, steps, dilation=spread), sides)
        self.padding = plain_padding(padding)

    def _as_images(self) -> tuple[Pair, Pair, Padding, Pair]:
        """Return kernel, stride, padding and dilation for images; a sequence is an image with one row."""
        if self.dimensions == 2:
            return self.kernel_size, self.stride, self.padding, self.dilation  # type: ignore[return-value]
        where = type(self).__name__
        kernel, steps, sides, spread = row_window(where, self.kernel_size, self.stride, self.padding, self.dilation)  # type: ignore[arg-type]
        return kernel, steps or kernel, sides, spread

    def window_on(self, size: Pair) -> Window:
        """Return the window for an image of this (H, W)."""
        return pooling_window(type(self).__name__, size, *self._as_images(), self.ceil_mode)[0]

    def output_shape(self, shape: Shape) -> Shape:
        lead, size = images_of(type(self).__name__, shape, self.dimensions)
        return *lead, *self.window_on(size).output_size(*size)[-self.dimensions :]

    def receptive_field(self, field: Field) -> Field | None:
        return None if field.flat else field.window(self.window_on(field.size))


class MaxPool2d(PoolNd):
    """Maximum of each window: (N, C, H, W) -> (N, C, OH, OW); see ``functional.max_pool2d``.

    >>> import gpucnn
    >>> MaxPool2d(2)(gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).tolist()
    [[[[3.0]]]]
    """

    def __init__(
        self,
        kernel_size: PairLike,
        stride: PairLike | None = None,
        padding: Padding = 0,
        dilation: PairLike = 1,
        ceil_mode: bool = False,
        *,
        zero_padded: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.zero_padded = check_flag(zero_padded, "MaxPool2d", "zero_padded")
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        window = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        y: Tensor = F.max_pool2d(x, *window, zero_padded=self.zero_padded)
        return y


class AvgPool2d(PoolNd):
    """Mean of each window: (N, C, H, W) -> (N, C, OH, OW); see ``functional.avg_pool2d``.

    >>> import gpucnn
    >>> AvgPool2d(2)(gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).tolist()
    [[[[1.5]]]]
    """

    def __init__(
        self,
        kernel_size: PairLike,
        stride: PairLike | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        dilation: PairLike = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)
        self.count_include_pad = check_flag(count_include_pad, "AvgPool2d", "count_include_pad")
        self.divisor_override = None if divisor_override is None else check_divisor(divisor_override, "AvgPool2d")

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
            self.dilation,
        )


class LPPool2d(PoolNd):
    """(sum |x|^p)^(1/p) of each window.

    >>> import gpucnn
    >>> LPPool2d(2, (1, 2))(gpucnn.tensor([[[3.0, 4.0]]])).tolist()
    [[[5.0]]]
    """

    def __init__(
        self,
        norm_type: float,
        kernel_size: PairLike,
        stride: PairLike | None = None,
        ceil_mode: bool = False,
        *,
        padding: Padding = 0,
        dilation: PairLike = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.norm_type = check_positive(norm_type, "LPPool2d", "norm_type")
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        return F.lp_pool2d(
            x, self.norm_type, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class CentrePool2d(PoolNd):
    """Mean of each window with weights proportional to 1 / (1 + distance from the centre).

    >>> import gpucnn
    >>> CentrePool2d(2)(gpucnn.tensor([[[2.0, 2.0], [2.0, 2.0]]])).tolist()
    [[[2.0]]]
    """

    def __init__(
        self,
        kernel_size: PairLike,
        stride: PairLike | None = None,
        padding: Padding = 0,
        dilation: PairLike = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        return F.centre_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPool1d(PoolNd):
    """Maximum of each span of a sequence: (N, C, L) -> (N, C, OL); see ``functional.max_pool1d``.

    >>> import gpucnn
    >>> MaxPool1d(2)(gpucnn.tensor([[1.0, 3.0, 2.0, 0.0]])).tolist()
    [[3.0, 2.0]]
    """

    dimensions = 1

    def __init__(
        self,
        kernel_size: Single,
        stride: Single | None = None,
        padding: Single = 0,
        dilation: Single = 1,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self._set_window(kernel_size, stride, padding, dilation, ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.max_pool1d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)  # type: ignore[arg-type]
        return y


class AvgPool1d(PoolNd):
    """Mean of each span of a sequence: (N, C, L) -> (N, C, OL); see ``functional.avg_pool1d``.

    >>> import gpucnn
    >>> AvgPool1d(2)(gpucnn.tensor([[1.0, 3.0, 2.0, 0.0]])).tolist()
    [[2.0, 1.0]]
    """

    dimensions = 1

    def __init__(
        self,
        kernel_size: Single,
        stride: Single | None = None,
        padding: Single = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self._set_window(kernel_size, stride, padding, 1, ceil_mode)
        self.count_include_pad = check_flag(count_include_pad, "AvgPool1d", "count_include_pad")

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool1d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)  # type: ignore[arg-type]


class AdaptivePool2d(Layer):
    """Base class of pooling to a given number of bins, for images of any size."""

    def bins_on(self, size: Pair) -> Pair:
        """Return the number of bins of an image of this (H, W)."""
        return 1, 1

    def output_shape(self, shape: Shape) -> Shape:
        lead, size = images_of(type(self).__name__, shape, 2)
        return *lead, *self.bins_on(size)

    def receptive_field(self, field: Field) -> Field | None:
        return None if field.flat else field.bins(*self.bins_on(field.size))


class AdaptiveAvgPool2d(AdaptivePool2d):
    """The means of output_size bins: (N, C, H, W) -> (N, C, OH, OW), whatever H and W.

    >>> import gpucnn
    >>> AdaptiveAvgPool2d(1)(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[2.0]]]
    """

    def __init__(self, output_size: int | tuple[int | None, int | None], *, name: str | None = None) -> None:
        super().__init__(name)
        rows, columns = adaptive_size(output_size, type(self).__name__)
        single = rows is not None and not isinstance(output_size, (tuple, list))
        self.output_size: int | tuple[int | None, int | None] = rows if single and rows else (rows, columns)

    def bins_on(self, size: Pair) -> Pair:
        rows, columns = adaptive_size(self.output_size, type(self).__name__)
        return size[0] if rows is None else rows, size[1] if columns is None else columns

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """The maxima of output_size bins: (N, C, H, W) -> (N, C, OH, OW), whatever H and W.

    >>> import gpucnn
    >>> AdaptiveMaxPool2d(1)(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[3.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.adaptive_max_pool2d(x, self.output_size)
        return y


class GlobalAvgPool2d(AdaptivePool2d):
    """The mean of each channel: (N, C, H, W) -> (N, C, 1, 1).

    >>> import gpucnn
    >>> GlobalAvgPool2d()(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[2.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.global_avg_pool2d(x)


class GlobalMaxPool2d(AdaptivePool2d):
    """The maximum of each channel: (N, C, H, W) -> (N, C, 1, 1).

    >>> import gpucnn
    >>> GlobalMaxPool2d()(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[3.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.global_max_pool2d(x)


class MaxUnpool2d(Layer):
    """Writes each value at its index: a partial inverse of ``functional.max_pool2d_with_indices``.

    >>> import gpucnn
    >>> MaxUnpool2d(2)(gpucnn.tensor([[[5.0]]]), gpucnn.tensor([[[1]]])).tolist()
    [[[0.0, 5.0], [0.0, 0.0]]]
    """

    def __init__(
        self,
        kernel_size: PairLike,
        stride: PairLike | None = None,
        padding: PairLike = 0,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.kernel_size = pair(kernel_size, "MaxUnpool2d", "kernel_size")
        self.stride = self.kernel_size if stride is None else pair(stride, "MaxUnpool2d", "stride")
        self.padding = pair(padding, "MaxUnpool2d", "padding", 0)

    def output_shape(self, shape: Shape) -> Shape:
        lead, (H, W) = images_of("MaxUnpool2d", shape, 2)
        (KH, KW), (SH, SW), (PH, PW) = self.kernel_size, self.stride, self.padding
        return *lead, (H - 1) * SH - 2 * PH + KH, (W - 1) * SW - 2 * PW + KW

    def forward(self, x: Tensor, indices: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        return F.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)
