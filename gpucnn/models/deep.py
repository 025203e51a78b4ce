"""Deeper networks, sized for 32x32 colour images."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.checks import MOST, is_count, shown
from gpucnn.errors import ParameterError
from gpucnn.functional.arguments import PairLike
from gpucnn.models.parts import INITS, draw_weights, size_after


def conv_norm(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution without bias that pads to keep the size (at stride 1), and its batch norm.

    >>> [type(layer).__name__ for layer in conv_norm(3, 16)]
    ['Conv2d', 'BatchNorm2d']
    """
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


def vgg(
    classes: int = 10,
    in_channels: int = 3,
    image_size: PairLike = 32,
    width: int = 32,
    hidden: int = 128,
    dropout: float = 0.5,
) -> nn.Sequential:
    """Return a small VGG: (N, in_channels, H, W) images -> (N, classes) logits.

    Three times two 3x3 convolutions (width, 2 width, 4 width filters; batch norm, ReLU) and max-pool 2; then hidden -
    ReLU - dropout - classes. 0.55 million parameters by default, with the initial weights of He et al. 2015.
    Raises ParameterError, and ShapeError for an image below 8x8. Source: Simonyan & Zisserman 2015, "Very deep
    convolutional networks for large-scale image recognition"; batch norm: Ioffe & Szegedy 2015.

    >>> sum(parameter.size for parameter in vgg().parameters())
    551018
    """
    if not is_count(width, 1):
        raise ParameterError.expected("vgg", "width", "a positive int", repr(width))
    pixels = size_after("vgg", image_size, *[(2, 2, 0)] * 3)
    layers, channels = [], in_channels
    for filters in (width, 2 * width, 4 * width):
        layers += [*conv_norm(channels, filters), nn.ReLU(), *conv_norm(filters, filters), nn.ReLU(), nn.MaxPool2d(2)]
        channels = filters
    head = [nn.Linear(channels * pixels, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)]
    net = nn.Sequential(*layers, nn.Flatten(), *head)
    draw_weights(net, INITS["kaiming_normal"])
    return net


def residual_block(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    """Return two 3x3 convolutions with a shortcut around them, and the ReLU after the sum.

    The shortcut is the identity, or a 1x1 convolution if the shape changes.

    >>> residual_block(16, 16)[0].shortcut is None, residual_block(16, 32, 2)[0].shortcut is None
    (True, False)
    """
    block = [*conv_norm(in_channels, out_channels, 3, stride), nn.ReLU(), *conv_norm(out_channels, out_channels)]
    same_shape = stride == 1 and in_channels == out_channels
    shortcut = None if same_shape else nn.Sequential(*conv_norm(in_channels, out_channels, 1, stride))
    return [nn.Residual(nn.Sequential(*block), shortcut), nn.ReLU()]


MOST_BLOCKS = 1000
"""Residual blocks of a stage: five times as many as the deepest network of the paper has."""


def resnet(classes: int = 10, in_channels: int = 3, width: int = 16, blocks: int = 3) -> nn.Sequential:
    """Return a small residual network: (N, in_channels, H, W) images of any size -> (N, classes) logits.

    conv 3x3 - 3 stages of ``blocks`` residual blocks with width, 2 width, 4 width filters, the image halved before the
    second and third - global average pooling - classes. 20 layers and 0.27 million parameters by default, with the
    initial weights of He et al. 2015. Raises ParameterError.
    Source: He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition", section 4.2.

    >>> sum(parameter.size for parameter in resnet().parameters())
    272474
    """
    for argument, value, most in (("width", width, MOST), ("blocks", blocks, MOST_BLOCKS)):
        if not is_count(value, 1, most):
            raise ParameterError.expected("resnet", argument, f"an int from 1 to {most:,}", shown(value))
    layers, channels = [*conv_norm(in_channels, width), nn.ReLU()], width
    for filters, stride in ((width, 1), (2 * width, 2), (4 * width, 2)):
        for block in range(blocks):
            layers += residual_block(channels, filters, stride if block == 0 else 1)
            channels = filters
    net = nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Flatten(), nn.Linear(channels, classes))
    draw_weights(net, INITS["kaiming_normal"])
    return net
