"""Pooling layers; sizes, padding and errors are those of the functions of the same names."""

from __future__ import annotations

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import Window
from gpucnn.backend.geometry import Pair
from gpucnn.checks import check_flag, check_positive
from gpucnn.functional.arguments import Padding, PairLike, pair, plain_padding
from gpucnn.functional.pool import check_divisor, pooling_sides
from gpucnn.functional.pool_variants import adaptive_size
from gpucnn.nn.module import Module


def check_window(where: str, kernel: Pair, stride: PairLike | None, padding: Padding, dilation: PairLike = 1) -> None:
    """ParameterError for a window that no image could have."""
    steps = kernel if stride is None else pair(stride, where, "stride")
    pooling_sides(where, (1, 1), Window(kernel, steps, dilation=pair(dilation, where, "dilation")), padding)


class MaxPool2d(Module):
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
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.kernel_size = pair(kernel_size, "MaxPool2d", "kernel_size")
        self.stride = self.kernel_size if stride is None else pair(stride, "MaxPool2d", "stride")
        check_window("MaxPool2d", self.kernel_size, stride, padding, dilation)
        self.padding, self.dilation = plain_padding(padding), pair(dilation, "MaxPool2d", "dilation")
        self.ceil_mode = check_flag(ceil_mode, "MaxPool2d", "ceil_mode")

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"


class AvgPool2d(Module):
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
        self.kernel_size = pair(kernel_size, "AvgPool2d", "kernel_size")
        self.stride = self.kernel_size if stride is None else pair(stride, "AvgPool2d", "stride")
        check_window("AvgPool2d", self.kernel_size, stride, padding, dilation)
        self.padding, self.dilation = plain_padding(padding), pair(dilation, "AvgPool2d", "dilation")
        self.ceil_mode = check_flag(ceil_mode, "AvgPool2d", "ceil_mode")
        self.count_include_pad = check_flag(count_include_pad, "AvgPool2d", "count_include_pad")
        self.divisor_override = divisor_override
        if divisor_override is not None:
            self.divisor_override = check_divisor(divisor_override, "AvgPool2d")

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

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"


class LPPool2d(Module):
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
        self.kernel_size = pair(kernel_size, "LPPool2d", "kernel_size")
        check_window("LPPool2d", self.kernel_size, stride, padding, dilation)
        self.stride = self.kernel_size if stride is None else pair(stride, "LPPool2d", "stride")
        self.padding, self.dilation = plain_padding(padding), pair(dilation, "LPPool2d", "dilation")
        self.ceil_mode = check_flag(ceil_mode, "LPPool2d", "ceil_mode")

    def forward(self, x: Tensor) -> Tensor:
        return F.lp_pool2d(
            x, self.norm_type, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}"


class CentrePool2d(Module):
    """Each window's mean, weighted by 1 / (1 + distance from the centre).

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
        self.kernel_size = pair(kernel_size, "CentrePool2d", "kernel_size")
        check_window("CentrePool2d", self.kernel_size, stride, padding, dilation)
        self.stride = self.kernel_size if stride is None else pair(stride, "CentrePool2d", "stride")
        self.padding, self.dilation = plain_padding(padding), pair(dilation, "CentrePool2d", "dilation")
        self.ceil_mode = check_flag(ceil_mode, "CentrePool2d", "ceil_mode")

    def forward(self, x: Tensor) -> Tensor:
        return F.centre_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"


class AdaptiveAvgPool2d(Module):
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

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"{self.output_size}"


class AdaptiveMaxPool2d(AdaptiveAvgPool2d):
    """The maxima of output_size bins: (N, C, H, W) -> (N, C, OH, OW), whatever H and W.

    >>> import gpucnn
    >>> AdaptiveMaxPool2d(1)(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[3.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_max_pool2d(x, self.output_size)


class GlobalAvgPool2d(Module):
    """The mean of each channel: (N, C, H, W) -> (N, C, 1, 1).

    >>> import gpucnn
    >>> GlobalAvgPool2d()(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[2.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.global_avg_pool2d(x)


class GlobalMaxPool2d(Module):
    """The maximum of each channel: (N, C, H, W) -> (N, C, 1, 1).

    >>> import gpucnn
    >>> GlobalMaxPool2d()(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[3.0]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.global_max_pool2d(x)


class MaxUnpool2d(Module):
    """Each value back to the place its index says: undoes ``functional.max_pool2d_with_indices``.

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

    def forward(self, x: Tensor, indices: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        return F.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)
