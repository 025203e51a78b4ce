"""Networks with one convolution, from teaching systems."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.autograd import Tensor
from gpucnn.functional.arguments import Padding, PairLike
from gpucnn.models.parts import draw_weights, size_after


def simple_convnet(
    classes: int = 10,
    in_channels: int = 1,
    image_size: PairLike = 28,
    filter_num: int = 30,
    filter_size: PairLike = 5,
    pad: Padding = 0,
    stride: PairLike = 1,
    hidden: int = 100,
    init_std: float = 0.01,
) -> nn.Sequential:
    """Return a network of one convolution and two linear layers: (N, in_channels, H, W) images -> (N, classes) logits.

    conv filter_num@filter_size - ReLU - max-pool 2 - hidden - ReLU - classes. Weights are drawn from N(0, init_std),
    biases are zero. Pass a dict of hyper-parameters as ``simple_convnet(**parameters)``.
    Raises ParameterError, and ShapeError for too small an image.
    Source: Saito 2016, "Deep Learning from Scratch", chapter 7.

    >>> net = simple_convnet(**{"filter_num": 30, "filter_size": 5, "pad": 0, "stride": 1})
    >>> [values.shape for name, values in net.state_dict().items() if name.endswith("weight")]
    [(30, 1, 5, 5), (100, 4320), (10, 100)]
    """
    pixels = size_after("simple_convnet", image_size, (filter_size, stride, pad), (2, 2, 0))
    net = nn.Sequential(
        nn.Conv2d(in_channels, filter_num, filter_size, stride, pad), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(filter_num * pixels, hidden), nn.ReLU(),
        nn.Linear(hidden, classes),
    )  # fmt: skip

    def draw(weight: Tensor) -> Tensor:
        return nn.init.normal_(weight, std=init_std)

    draw_weights(net, draw)
    return net


def conv_mlp(
    classes: int = 10,
    in_channels: int = 1,
    image_size: PairLike = 28,
    channels: int = 16,
    hidden: int = 64,
    dropout: float = 0.2,
) -> nn.Sequential:
    """Return one convolution, dropout and two linear layers: (N, in_channels, H, W) images -> (N, classes) logits.

    conv channels@3x3 - flatten - dropout - hidden - ReLU - classes.
    Raises ParameterError, and ShapeError for an image below 3x3. Source: system 4 of tests/systems.

    >>> sum(parameter.size for parameter in conv_mlp().parameters())
    693098
    """
    pixels = size_after("conv_mlp", image_size, (3, 1, 0))
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3),
        nn.Flatten(), nn.Dropout(dropout),
        nn.Linear(channels * pixels, hidden), nn.ReLU(),
        nn.Linear(hidden, classes),
    )  # fmt: skip
