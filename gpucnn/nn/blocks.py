"""Named blocks of a few layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from gpucnn.autograd import Tensor
from gpucnn.backend import Backend
from gpucnn.checks import check_choice
from gpucnn.functional.arguments import Padding, PairLike
from gpucnn.nn.activation import activation as activation_layer
from gpucnn.nn.containers import Composite, Sequential, made_of
from gpucnn.nn.conv import Conv2d
from gpucnn.nn.layer import images_of
from gpucnn.nn.module import Module
from gpucnn.nn.pool import AvgPool2d, CentrePool2d, LPPool2d, MaxPool2d


class DepthwiseSeparableConv2d(Composite):
    """One filter per channel, then a 1x1 convolution across channels: (N, C, H, W) -> (N, F, OH, OW).

    K*K*C + C*F weights instead of K*K*C*F. in_channels=None takes the channels of the first input.
    Source: Sifre & Mallat 2014; Chollet 2017.

    >>> layer = DepthwiseSeparableConv2d(2, 4, 2, bias=False)
    >>> sum(parameter.size for parameter in layer.parameters())
    16
    """

    made_of_layers = True
    names_inside = (("depthwise", "pointwise"),)

    def __init__(
        self,
        in_channels: int | None,
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
        window = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
        self._options: tuple[Any, ...] = (out_channels, window, bias, device, dtype)
        self._make(1 if in_channels is None else in_channels)
        if in_channels is None:  # the arguments are known to be sound
            del self.depthwise, self.pointwise

    def _make(self, channels: int) -> None:
        out_channels, window, bias, device, dtype = self._options
        self.depthwise = Conv2d(channels, channels, **window, groups=channels, bias=False, device=device, dtype=dtype)
        self.pointwise = Conv2d(channels, out_channels, 1, bias=bias, device=device, dtype=dtype)

    def waits_for_input(self) -> bool:
        return not self._modules

    def forward(self, x: Tensor) -> Tensor:
        if not self._modules:
            channels = images_of("DepthwiseSeparableConv2d", x.shape, 2)[0][-1]
            *options, dtype = self._options
            self._options = (*options[:-1], x.backend, dtype or x.dtype)
            self._make(channels)
            self.train(self.training)
        y: Tensor = self.pointwise(self.depthwise(x))
        return y

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        return made_of(cls, children, arguments)


POOLINGS: dict[str, Callable[..., Module]] = {
    "max": MaxPool2d,
    "avg": AvgPool2d,
    "l2": partial(LPPool2d, 2.0),
    "centre": CentrePool2d,
}
"""The poolings of ``ConvBlock`` by name."""


class ConvBlock(Sequential):
    """Convolution, activation and pooling in one call, named conv, activation and pool.

    The convolution has ``filters`` filters of filter_size. activation: a name or a layer. pooling ("max", "avg", "l2" or
    "centre") has pool_size, pool_stride and pool_padding; pool_size=None omits it. channels=None takes the channels of the
    first input.

    >>> import gpucnn
    >>> ConvBlock(1, filters=6, filter_size=5, padding=2, pool_size=2)(gpucnn.tensor([[[[0.0] * 28] * 28]])).shape
    (1, 6, 14, 14)
    """

    made_of_layers = True
    names_inside = (("conv", "activation"), ("conv", "activation", "pool"))

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
        dilation: PairLike = 1,
        groups: int = 1,
        bias: bool = True,
        pool_padding: Padding = 0,
        name: str | None = None,
    ) -> None:
        check_choice(pooling, "ConvBlock", "pooling", tuple(POOLINGS))
        layers: dict[str, Module] = {
            "conv": Conv2d(channels, filters, filter_size, stride, padding, dilation, groups, bias),
            "activation": activation_layer(activation),
        }
        if pool_size is not None:
            layers["pool"] = POOLINGS[pooling](pool_size, pool_stride, padding=pool_padding)
        super().__init__(layers, name=name)

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        return made_of(cls, children, arguments)
