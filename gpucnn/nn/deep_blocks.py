"""Blocks of the networks known by torchvision's names. Layers inside have the names of torchvision's state dictionaries.

Each block describes itself once, in ``body``, as containers around its layers. Shape, cost, receptive field and the fusion
of neighbours follow from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from gpucnn.autograd import Tensor
from gpucnn.checks import check_count, check_probability
from gpucnn.nn.activation import Identity, ReLU, ReLU6
from gpucnn.nn.containers import Composite, Concat, Residual, Sequential, made_of
from gpucnn.nn.conv import Conv2d
from gpucnn.nn.dropout import Dropout
from gpucnn.nn.layer import Shape
from gpucnn.nn.module import Module
from gpucnn.nn.norm import BatchNorm2d
from gpucnn.nn.receptive_field import Field


class Block(Composite):
    """Base class of layers that are equivalent to containers around their own layers."""

    made_of_layers = True

    def body(self) -> Composite:
        """Return containers around this block's layers that compute the same as the block.

        They are made at each call, in microseconds, so that a replaced layer is seen.
        """
        raise NotImplementedError(f"{type(self).__name__} has no body method")

    def inside(self, *names: str) -> Sequential:
        """Return the layers of these names, those that the block has, in sequence."""
        layers = [self._modules[name] for name in names if name in self._modules]
        return Sequential({str(number): layer for number, layer in enumerate(layers)})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body()(x)
        return y

    def output_shape(self, shape: Shape) -> Shape:
        return self.body().output_shape(shape)

    def multiply_adds(self, shape: Shape) -> int:
        return self.body().multiply_adds(shape)

    def receptive_field(self, field: Field) -> Field | None:
        return self.body().receptive_field(field)

    @classmethod
    def assembled(cls, children: Mapping[str, Module], arguments: dict[str, Any]) -> Self:
        return made_of(cls, children, arguments)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> Conv2d:
    """Return a 3x3 convolution without bias that keeps the size (at stride 1).

    >>> conv3x3(4, 8)
    Conv2d(4, 8, kernel_size=(3, 3), padding=1, bias=False)
    """
    return Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)


class BasicBlock(Block):
    """Two 3x3 convolutions with batch norm and a shortcut around them: (N, C, H, W) -> (N, channels, H/stride, W/stride).

    The shortcut, ``downsample``, is the identity or, where the shape changes, a 1x1 convolution with batch norm.
    Source: He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition".

    >>> import gpucnn
    >>> BasicBlock(1, 4, stride=2)(gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5]]]])).shape
    (1, 4, 1, 2)
    """

    main: ClassVar[tuple[str, ...]] = ("conv1", "bn1", "relu", "conv2", "bn2")
    names_inside: ClassVar[tuple[tuple[str, ...], ...] | None] = (main, (*main, "downsample"))
    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.conv1, self.bn1 = conv3x3(in_channels, channels, stride), BatchNorm2d(channels)
        self.relu: Module = ReLU()
        self.conv2, self.bn2 = conv3x3(channels, channels), BatchNorm2d(channels)
        self._add_shortcut(in_channels, channels, stride)

    def _add_shortcut(self, in_channels: int, out_channels: int, stride: int) -> None:
        if stride != 1 or in_channels != out_channels:
            conv = Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample: Module = Sequential(conv, BatchNorm2d(out_channels))

    def body(self) -> Composite:
        return Sequential(Residual(self.inside(*self.main), self._modules.get("downsample")), self.relu)


class Bottleneck(BasicBlock):
    """Convolutions 1x1, 3x3 and 1x1 with a shortcut around them: (N, C, H, W) -> (N, 4 channels, H/stride, W/stride).

    The 3x3 convolution has the stride, as in torchvision (the paper: the first). Source: as ``BasicBlock``.

    >>> import gpucnn
    >>> Bottleneck(2, 1)(gpucnn.tensor([[[[0.0, 1], [2, 3]]] * 2]).reshape(1, 2, 2, 2)).shape
    (1, 4, 2, 2)
    """

    main = ("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3")
    own = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "relu")
    names_inside = (own, (*own, "downsample"))
    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, name: str | None = None) -> None:
        Module.__init__(self, name)
        wide = check_count(channels, "Bottleneck", "channels") * self.expansion
        self.conv1, self.bn1 = Conv2d(in_channels, channels, 1, bias=False), BatchNorm2d(channels)
        self.conv2, self.bn2 = conv3x3(channels, channels, stride), BatchNorm2d(channels)
        self.conv3, self.bn3 = Conv2d(channels, wide, 1, bias=False), BatchNorm2d(wide)
        self.relu = ReLU()
        self._add_shortcut(in_channels, wide, stride)


class InvertedResidual(Block):
    """Convolutions 1x1 to more channels, 3x3 per channel, 1x1 to few: (N, C, H, W) -> (N, F, H/stride, W/stride).

    At stride 1 with C = F the input is added. Batch norm after each convolution, ReLU6 after the first two.
    Source: Sandler et al. 2018, "MobileNetV2: inverted residuals and linear bottlenecks".

    >>> import gpucnn
    >>> InvertedResidual(1, 2, 1, expand_ratio=6)(gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).shape
    (1, 2, 2, 2)
    """

    names_inside = (("conv",),)
    conv: Module

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expand_ratio: int, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        wide = check_count(in_channels, "InvertedResidual", "in_channels")
        wide *= check_count(expand_ratio, "InvertedResidual", "expand_ratio")
        widened = [] if expand_ratio == 1 else [conv_norm_relu6(in_channels, wide, 1)]
        self.conv = Sequential(
            *widened,
            conv_norm_relu6(wide, wide, 3, stride, groups=wide),
            Conv2d(wide, out_channels, 1, bias=False), BatchNorm2d(out_channels),
        )  # fmt: skip

    def adds_input(self) -> bool:
        """Whether the input is added: where the convolutions keep its shape."""
        convs = [layer for layer in self.conv.modules() if isinstance(layer, Conv2d)]
        kept = bool(convs) and convs[0].in_channels == convs[-1].out_channels
        return kept and all(conv.stride == (1, 1) for conv in convs)

    def body(self) -> Composite:
        return Residual(self.conv) if self.adds_input() else self.inside("conv")


def conv_norm_relu6(
    in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, groups: int = 1
) -> Sequential:
    """Return a convolution without bias, batch norm and ReLU6 in sequence.

    >>> [type(layer).__name__ for layer in conv_norm_relu6(3, 32)]
    ['Conv2d', 'BatchNorm2d', 'ReLU6']
    """
    conv = Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return Sequential(conv, BatchNorm2d(out_channels), ReLU6())


class Fire(Block):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 convolutions side by side: (N, C, H, W) -> (N, E1 + E3, H, W).

    Source: Iandola et al. 2016, "SqueezeNet".

    >>> import gpucnn
    >>> Fire(1, 2, 3, 4)(gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).shape
    (1, 7, 2, 2)
    """

    names_inside = (
        ("squeeze", "squeeze_activation", "expand1x1", "expand1x1_activation", "expand3x3", "expand3x3_activation"),
    )

    def __init__(
        self,
        in_channels: int,
        squeeze_channels: int,
        expand1x1_channels: int,
        expand3x3_channels: int,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.squeeze, self.squeeze_activation = Conv2d(in_channels, squeeze_channels, 1), ReLU()
        self.expand1x1, self.expand1x1_activation = Conv2d(squeeze_channels, expand1x1_channels, 1), ReLU()
        self.expand3x3, self.expand3x3_activation = Conv2d(squeeze_channels, expand3x3_channels, 3, padding=1), ReLU()

    def body(self) -> Composite:
        wide = [self.inside(name, f"{name}_activation") for name in ("expand1x1", "expand3x3")]
        return Sequential(self.squeeze, self.squeeze_activation, Concat(*wide))


class DenseLayer(Block):
    """``growth`` new channels after those of the input: (N, C, H, W) -> (N, C + growth, H, W).

    They are computed by batch norm, ReLU, a 1x1 convolution to bottleneck * growth channels, batch norm, ReLU, a 3x3
    convolution and, if dropout is above 0, dropout. Source: Huang et al. 2017, "Densely connected convolutional networks".

    >>> import gpucnn
    >>> DenseLayer(1, 4)(gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).shape
    (1, 5, 2, 2)
    """

    main = ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2")
    names_inside = (main, (*main, "dropout"))

    def __init__(
        self, in_channels: int, growth: int, bottleneck: int = 4, dropout: float = 0.0, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        wide = check_count(bottleneck, "DenseLayer", "bottleneck") * check_count(growth, "DenseLayer", "growth")
        self.norm1, self.relu1 = BatchNorm2d(in_channels), ReLU()
        self.conv1 = Conv2d(in_channels, wide, 1, bias=False)
        self.norm2, self.relu2 = BatchNorm2d(wide), ReLU()
        self.conv2 = conv3x3(wide, growth)
        if check_probability(dropout, "DenseLayer", "dropout"):
            self.dropout = Dropout(dropout)

    def body(self) -> Composite:
        return Concat(Identity(), self.inside(*self.main, "dropout"))
