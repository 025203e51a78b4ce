"""Further convolutions, and convolution + activation + pooling as one block."""

from __future__ import annotations

from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.backend import Backend, Window
from gpucnn.checks import check_choice, check_count
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.arguments import Padding, PairLike, Single, pair, sides, single
from gpucnn.functional.conv_variants import check_output_padding
from gpucnn.nn.activations import activation as activation_layer
from gpucnn.nn.containers import Sequential
from gpucnn.nn.layers import Conv2d, Weighted, group_channels
from gpucnn.nn.module import Module
from gpucnn.nn.pooling import AvgPool2d, MaxPool2d


class ConvTranspose2d(Weighted):
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
        out_channels = check_count(out_channels, where, "out_channels")
        groups = check_count(groups, where, "groups")
        if in_channels is not None:
            in_channels = check_count(in_channels, where, "in_channels")
        if out_channels % groups or (in_channels or groups) % groups:
            raise ParameterError.expected(
                where, "groups", f"a divisor of {in_channels} and {out_channels}", repr(groups)
            )
        super().__init__(bias, device, dtype, name)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = pair(kernel_size, where, "kernel_size"), pair(stride, where, "stride")
        self.padding, self.dilation = pair(padding, where, "padding", 0), pair(dilation, where, "dilation")
        self.output_padding = pair(output_padding, where, "output_padding", 0)
        check_output_padding(self.output_padding, self.stride, self.dilation, where)
        if in_channels is not None:
            self.materialise(in_channels)

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        self.in_channels = in_size
        return in_size, self.out_channels // self.groups, *self.kernel_size

    def bias_shape(self) -> tuple[int, ...]:
        return (self.out_channels,)

    def in_size_of(self, x: Tensor) -> int:
        return group_channels(x, "ConvTranspose2d", self.groups) * self.groups

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ready_for(x)
        return F.conv_transpose2d(
            x, weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
        )

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


class Conv1d(Weighted):
    """Cross-correlation of sequences: (N, C, L) -> (N, F, OL). Parameters: weight (F, C/groups, K), bias (F,).

    >>> import gpucnn
    >>> Conv1d(1, 2, 3)(gpucnn.tensor([[[0.0] * 8]])).shape
    (1, 2, 6)
    """

    def __init__(
        self,
        in_channels: int | None,
        out_channels: int,
        kernel_size: Single,
        stride: Single = 1,
        padding: Single | str = 0,
        dilation: Single = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        out_channels, groups = (
            check_count(out_channels, "Conv1d", "out_channels"),
            check_count(groups, "Conv1d", "groups"),
        )
        kernel_size, stride, dilation = (
            single(value, "Conv1d", argument)
            for value, argument in ((kernel_size, "kernel_size"), (stride, "stride"), (dilation, "dilation"))
        )
        if in_channels is not None:
            in_channels = check_count(in_channels, "Conv1d", "in_channels")
        if not isinstance(padding, str):
            padding = single(padding, "Conv1d", "padding", least=0)
        sides(padding, Window((1, kernel_size), (1, stride), dilation=(1, dilation)), 1, 1, "Conv1d")
        if out_channels % groups or (in_channels or groups) % groups:
            raise ParameterError.expected("Conv1d", "groups", f"a divisor of {in_channels} and {out_channels}", groups)
        super().__init__(bias, device, dtype, name)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        if in_channels is not None:
            self.materialise(in_channels // groups)

    def weight_shape(self, in_size: int) -> tuple[int, ...]:
        self.in_channels = in_size * self.groups
        return self.out_channels, in_size, self.kernel_size

    def in_size_of(self, x: Tensor) -> int:
        if x.ndim not in (2, 3):
            raise ShapeError.expected("Conv1d", "input", "(N, C, L) or (C, L)", f"shape {x.shape}")
        return group_channels(x.reshape(*x.shape[:-1], 1, x.shape[-1]), "Conv1d", self.groups)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.ready_for(x)
        return F.conv1d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"


class DepthwiseSeparableConv2d(Module):
    """A filter for each channel alone, then a 1x1 convolution across channels: (N, C, H, W) -> (N, F, OH, OW).

    K*K*C + C*F weights instead of K*K*C*F. Source: Sifre & Mallat 2014; Chollet 2017.

    >>> layer = DepthwiseSeparableConv2d(2, 4, 2, bias=False)
    >>> sum(parameter.size for parameter in layer.parameters())
    16
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PairLike,
        stride: PairLike = 1,
        padding: Padding = 0,
        dilation: PairLike = 1,
        bias: bool = True,
        *,
        device: str | Backend | None = None,
        dtype: Any = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            in_channels,
            False,
            device=device,
            dtype=dtype,
        )
        self.pointwise = Conv2d(in_channels, out_channels, 1, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(x))
        return y


class ConvBlock(Sequential):
    """Convolution, activation and pooling in one call, named conv, activation and pool.

    filters filters of filter_size, an activation by name or as a layer, and pooling of pool_size and pool_stride
    ("max" or "avg"), or none with pool_size=None. channels=None takes those of the first input.

    >>> import gpucnn
    >>> ConvBlock(1, filters=6, filter_size=5, padding=2, pool_size=2)(gpucnn.tensor([[[[0.0] * 28] * 28]])).shape
    (1, 6, 14, 14)
    """

    def __init__(
        self,
        channels: int | None,
        filters: int,
        filter_size: PairLike,
        pool_size: PairLike | None = 2,
        pool_stride: PairLike | None = None,
        activation: str | Module | None = "relu",
        *,
        stride: PairLike = 1,
        padding: Padding = 0,
        pooling: str = "max",
        name: str | None = None,
    ) -> None:
        check_choice(pooling, "ConvBlock", "pooling", ("max", "avg"))
        layers: dict[str, Module] = {
            "conv": Conv2d(channels, filters, filter_size, stride, padding),
            "activation": activation_layer(activation),
        }
        if pool_size is not None:
            layers["pool"] = (MaxPool2d if pooling == "max" else AvgPool2d)(pool_size, pool_stride)
        super().__init__(layers, name=name)
