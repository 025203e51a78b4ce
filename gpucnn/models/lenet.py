"""LeNet."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.functional.arguments import Padding, PairLike
from gpucnn.models.parts import INITS, POOLINGS, activation_named, choice, draw_weights, size_after


def lenet(
    classes: int = 10,
    in_channels: int = 1,
    activation: str = "relu",
    pooling: str = "max",
    padding: Padding = 2,
    image_size: PairLike = 28,
    hidden: int = 120,
    init: str = "default",
    filters1: int = 6,
    filters2: int = 16,
    kernel1: int = 5,
    kernel2: int = 5,
    stride1: int = 1,
    stride2: int = 1,
    padding2: int = 0,
    pool_size1: int = 2,
    pool_size2: int = 2,
    hidden2: int = 84,
    implementation: str = "auto",
) -> nn.Sequential:
    """Return LeNet-5 in its modern form: (N, in_channels, H, W) images -> (N, classes) logits.

    conv filters1@kernel1 (padding, stride1) - activation - pooling of pool_size1 - conv filters2@kernel2 (padding2, stride2)
    - activation - pooling of pool_size2 - hidden - hidden2 - classes. activation: any name of ``nn.activation``; pooling:
    "max" or "avg"; init: "default" (PyTorch's), or a name of ``nn.init`` ("xavier_normal", say) with biases of zero;
    implementation of the convolutions: "auto", "im2col" or "loops".
    Raises ParameterError for an unknown name, ShapeError for too small an image.
    Source: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition".

    >>> lenet().state_dict()["3.weight"].shape
    (16, 6, 5, 5)
    >>> lenet(activation="sigmoid", padding=0, hidden=128, init="xavier_normal").state_dict()["7.weight"].shape
    (128, 256)
    """
    act, pool = activation_named(activation, "lenet"), choice("lenet", "pooling", pooling, POOLINGS)
    weights = choice("lenet", "init", init, {"default": None, **INITS})
    pixels = size_after(
        "lenet",
        image_size,
        (kernel1, stride1, padding),
        (pool_size1, pool_size1, 0),
        (kernel2, stride2, padding2),
        (pool_size2, pool_size2, 0),
    )
    net = nn.Sequential(
        nn.Conv2d(in_channels, filters1, kernel1, stride1, padding, implementation=implementation), act(), pool(pool_size1),
        nn.Conv2d(filters1, filters2, kernel2, stride2, padding2, implementation=implementation), act(), pool(pool_size2),
        nn.Flatten(),
        nn.Linear(filters2 * pixels, hidden), act(),
        nn.Linear(hidden, hidden2), act(),
        nn.Linear(hidden2, classes),
    )  # fmt: skip
    if weights is not None:
        draw_weights(net, weights)
    return net
