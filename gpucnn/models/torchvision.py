"""Networks with torchvision's names, layers and state dictionaries: weights saved from it load unchanged.

Each takes (N, in_channels, H, W) images of any size that its windows fit on, and starts with torchvision's initial weights.
Options beyond torchvision's make networks narrower or adapt them: ``width``, ``hidden``, ``in_channels``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn import nn
from gpucnn.autograd import Tensor
from gpucnn.checks import check_count, check_number
from gpucnn.nn import init
from gpucnn.nn.deep_blocks import conv_norm_relu6


def _draw(net: nn.Module, conv: Callable[[Tensor], Tensor] | None, linear: Callable[[Tensor], Tensor] | None) -> None:
    """Draw the weights of convolutions and of fully connected layers, where a way is given, and set their biases to zero."""
    for layer in net.modules():
        way = conv if isinstance(layer, nn.Conv2d) else linear if isinstance(layer, nn.Linear) else None
        if way is not None and isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert layer.weight is not None
            way(layer.weight)
            if layer.bias is not None:
                init.zeros_(layer.bias)


def _kaiming_fan_out(weight: Tensor) -> Tensor:
    return init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def _small(weight: Tensor) -> Tensor:
    return init.normal_(weight, 0.0, 0.01)


def alexnet(classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, hidden: int = 4096) -> nn.Sequential:
    """Return AlexNet as torchvision has it: (N, in_channels, H, W) images, at least 63x63 -> (N, classes) logits.

    Five convolutions (64, 192, 384, 256, 256 filters), hidden - hidden - classes. 61 million parameters by default.
    Raises ParameterError. Source: Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks".

    >>> net = alexnet(hidden=8)
    >>> [name for name in net.state_dict() if name.endswith("weight")][-2:]
    ['classifier.4.weight', 'classifier.6.weight']
    """
    features = nn.Sequential(
        nn.Conv2d(in_channels, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    head = nn.Sequential(
        nn.Dropout(dropout), nn.Linear(256 * 6 * 6, hidden), nn.ReLU(),
        nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, classes),
    )  # fmt: skip
    return _with_head(features, nn.AdaptiveAvgPool2d(6), head)


def _with_head(features: nn.Module, pool: nn.Module, head: nn.Module) -> nn.Sequential:
    return nn.Sequential({"features": features, "avgpool": pool, "flatten": nn.Flatten(), "classifier": head})


VGG_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""Convolutions of each stage, by the number of layers with weights."""


def _vgg(
    layers: int, norm: bool, classes: int, in_channels: int, dropout: float, hidden: int, width: int
) -> nn.Sequential:
    check_count(width, f"vgg{layers}", "width")
    features: list[nn.Module] = []
    channels = in_channels
    for convolutions, factor in zip(VGG_STAGES[layers], (1, 2, 4, 8, 8), strict=True):
        for _ in range(convolutions):
            features.append(nn.Conv2d(channels, factor * width, 3, padding=1))
            features += [nn.BatchNorm2d(factor * width), nn.ReLU()] if norm else [nn.ReLU()]
            channels = factor * width
        features.append(nn.MaxPool2d(2))
    head = nn.Sequential(
        nn.Linear(channels * 7 * 7, hidden), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )  # fmt: skip
    net = _with_head(nn.Sequential(*features), nn.AdaptiveAvgPool2d(7), head)
    _draw(net, _kaiming_fan_out, _small)
    return net


def vgg11(
    classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, hidden: int = 4096, width: int = 64
) -> nn.Sequential:
    """Return VGG with 11 layers: (N, in_channels, H, W) images, at least 32x32 -> (N, classes) logits.

    Eight 3x3 convolutions (width to 8 width filters), hidden - hidden - classes. 133 million parameters by default.
    Raises ParameterError. Source: Simonyan & Zisserman 2015, "Very deep convolutional networks", configuration A.

    >>> list(vgg11(hidden=8, width=2).state_dict())[-2:]
    ['classifier.6.weight', 'classifier.6.bias']
    """
    return _vgg(11, False, classes, in_channels, dropout, hidden, width)


def vgg16(
    classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, hidden: int = 4096, width: int = 64
) -> nn.Sequential:
    """Return VGG with 16 layers: (N, in_channels, H, W) images, at least 32x32 -> (N, classes) logits.

    Thirteen 3x3 convolutions (width to 8 width filters), hidden - hidden - classes. 138 million parameters by default.
    Raises ParameterError. Source: as ``vgg11``, configuration D.

    >>> len(vgg16(hidden=8, width=2)["features"])
    31
    """
    return _vgg(16, False, classes, in_channels, dropout, hidden, width)


def vgg16_bn(
    classes: int = 1000, in_channels: int = 3, dropout: float = 0.5, hidden: int = 4096, width: int = 64
) -> nn.Sequential:
    """Return VGG with 16 layers and batch norm: (N, in_channels, H, W) images, at least 32x32 -> (N, classes) logits.

    As ``vgg16``, with batch norm after each convolution.

    >>> len(vgg16_bn(hidden=8, width=2)["features"])
    44
    """
    return _vgg(16, True, classes, in_channels, dropout, hidden, width)


def _resnet(
    block: type[nn.BasicBlock], counts: tuple[int, ...], classes: int, in_channels: int, width: int, zero_last: bool
) -> nn.Sequential:
    check_count(width, "resnet", "width")
    parts: dict[str, nn.Module] = {
        "conv1": nn.Conv2d(in_channels, width, 7, 2, 3, bias=False),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(),
        "maxpool": nn.MaxPool2d(3, 2, 1),
    }
    channels = width
    for stage, count in enumerate(counts):
        layers = []
        for number in range(count):
            layers.append(block(channels, width << stage, 2 if stage and not number else 1))
            channels = (width << stage) * block.expansion
        parts[f"layer{stage + 1}"] = nn.Sequential(*layers)
    parts |= {"avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(channels, classes)}
    net = nn.Sequential(parts)
    _draw(net, _kaiming_fan_out, None)
    if zero_last:
        for layer in net.modules():
            if isinstance(layer, nn.BasicBlock):
                last = (layer.bn3 if isinstance(layer, nn.Bottleneck) else layer.bn2).weight
                assert last is not None
                init.zeros_(last)
    return net


def resnet18(
    classes: int = 1000, in_channels: int = 3, width: int = 64, zero_init_residual: bool = False
) -> nn.Sequential:
    """Return a residual network with 18 layers: (N, in_channels, H, W) images of any size -> (N, classes) logits.

    conv 7x7/2 - max-pool - stages of 2, 2, 2, 2 blocks of two 3x3 convolutions - global average - classes. 12 million
    parameters by default. zero_init_residual: blocks start as the identity. Raises ParameterError.
    Source: He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition".

    >>> list(resnet18(width=2).state_dict())[:2]
    ['conv1.weight', 'bn1.weight']
    """
    return _resnet(nn.BasicBlock, (2, 2, 2, 2), classes, in_channels, width, zero_init_residual)


def resnet34(
    classes: int = 1000, in_channels: int = 3, width: int = 64, zero_init_residual: bool = False
) -> nn.Sequential:
    """Return a residual network with 34 layers: (N, in_channels, H, W) images of any size -> (N, classes) logits.

    As ``resnet18``, with stages of 3, 4, 6, 3 blocks. 22 million parameters by default.

    >>> [len(resnet34(width=2)[f"layer{stage}"]) for stage in (1, 2, 3, 4)]
    [3, 4, 6, 3]
    """
    return _resnet(nn.BasicBlock, (3, 4, 6, 3), classes, in_channels, width, zero_init_residual)


def resnet50(
    classes: int = 1000, in_channels: int = 3, width: int = 64, zero_init_residual: bool = False
) -> nn.Sequential:
    """Return a residual network with 50 layers: (N, in_channels, H, W) images of any size -> (N, classes) logits.

    As ``resnet34``, with blocks of 1x1, 3x3 and 1x1 convolutions. 26 million parameters by default.

    >>> resnet50(width=2).state_dict()["fc.weight"].shape
    (1000, 64)
    """
    return _resnet(nn.Bottleneck, (3, 4, 6, 3), classes, in_channels, width, zero_init_residual)


INVERTED_RESIDUALS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
"""Expansion, channels, blocks and stride of each stage of MobileNetV2."""


def _to_eight(channels: float) -> int:
    """Return the multiple of 8 nearest to ``channels``, at least 8 and not below nine tenths of them."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def mobilenet_v2(
    classes: int = 1000, in_channels: int = 3, width_mult: float = 1.0, dropout: float = 0.2
) -> nn.Sequential:
    """Return MobileNetV2: (N, in_channels, H, W) images of any size -> (N, classes) logits.

    conv 3x3/2 - 17 inverted residuals - conv 1x1 - global average - dropout - classes. 3.5 million parameters by default;
    width_mult multiplies the channels of all layers. Raises ParameterError. Source: Sandler et al. 2018.

    >>> list(mobilenet_v2(width_mult=0.1).state_dict())[-2:]
    ['classifier.1.weight', 'classifier.1.bias']
    """
    check_number(width_mult, "mobilenet_v2", "width_mult", 0)
    channels, last = _to_eight(32 * width_mult), _to_eight(1280 * max(1.0, width_mult))
    features: list[nn.Module] = [conv_norm_relu6(in_channels, channels, 3, 2)]
    for expansion, filters, blocks, stride in INVERTED_RESIDUALS:
        wide = _to_eight(filters * width_mult)
        for number in range(blocks):
            features.append(nn.InvertedResidual(channels, wide, 1 if number else stride, expansion))
            channels = wide
    features.append(conv_norm_relu6(channels, last, 1))
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, classes))
    net = _with_head(nn.Sequential(*features), nn.AdaptiveAvgPool2d(1), head)
    _draw(net, lambda weight: init.kaiming_normal_(weight, mode="fan_out"), _small)
    return net


def squeezenet1_1(classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> nn.Sequential:
    """Return SqueezeNet 1.1: (N, in_channels, H, W) images, at least 17x17 -> (N, classes) logits, none below 0.

    conv 3x3/2 - eight Fire blocks, a max-pool before the first, third and fifth - dropout - conv 1x1 - ReLU - global
    average. 1.2 million parameters by default. Raises ParameterError. Source: Iandola et al. 2016, "SqueezeNet".

    >>> [values.shape for values in squeezenet1_1(classes=5).state_dict().values()][-1]
    (5,)
    """
    features = nn.Sequential(
        nn.Conv2d(in_channels, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Fire(64, 16, 64, 64), nn.Fire(128, 16, 64, 64), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Fire(128, 32, 128, 128), nn.Fire(256, 32, 128, 128), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Fire(256, 48, 192, 192), nn.Fire(384, 48, 192, 192), nn.Fire(384, 64, 256, 256), nn.Fire(512, 64, 256, 256),
    )  # fmt: skip
    last = nn.Conv2d(512, classes, 1)
    head = nn.Sequential(nn.Dropout(dropout), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential({"features": features, "classifier": head, "flatten": nn.Flatten()})
    _draw(net, init.kaiming_uniform_, None)
    assert last.weight is not None
    _small(last.weight)
    return net


def densenet121(
    classes: int = 1000, in_channels: int = 3, growth_rate: int = 32, dropout: float = 0.0
) -> nn.Sequential:
    """Return DenseNet with 121 layers: (N, in_channels, H, W) images, at least 29x29 -> (N, classes) logits.

    conv 7x7/2 - max-pool - blocks of 6, 12, 24, 16 layers, each of growth_rate new channels, halved in between - global
    average - classes. 8 million parameters by default. Raises ParameterError. Source: Huang et al. 2017.

    >>> densenet121(growth_rate=2).state_dict()["features.denseblock1.denselayer6.conv2.weight"].shape
    (2, 8, 3, 3)
    """
    check_count(growth_rate, "densenet121", "growth_rate")
    channels = 2 * growth_rate
    features: dict[str, nn.Module] = {
        "conv0": nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False),
        "norm0": nn.BatchNorm2d(channels),
        "relu0": nn.ReLU(),
        "pool0": nn.MaxPool2d(3, 2, 1),
    }
    for stage, count in enumerate((6, 12, 24, 16), 1):
        layers: dict[str, Any] = {}
        for number in range(1, count + 1):
            layers[f"denselayer{number}"] = nn.DenseLayer(channels, growth_rate, dropout=dropout)
            channels += growth_rate
        features[f"denseblock{stage}"] = nn.Sequential(layers)
        if stage < 4:
            half = nn.Conv2d(channels, channels // 2, 1, bias=False)
            transition = {"norm": nn.BatchNorm2d(channels), "relu": nn.ReLU(), "conv": half, "pool": nn.AvgPool2d(2)}
            features[f"transition{stage}"] = nn.Sequential(transition)
            channels //= 2
    features["norm5"] = nn.BatchNorm2d(channels)
    head = nn.Linear(channels, classes)
    assert head.bias is not None
    init.zeros_(head.bias)
    pool = {"relu": nn.ReLU(), "avgpool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "classifier": head}
    net = nn.Sequential({"features": nn.Sequential(features), **pool})
    _draw(net, init.kaiming_normal_, None)
    return net
