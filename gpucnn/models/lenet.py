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
) -> nn.Sequential:
    """Return LeNet-5 in its modern form: (N, in_channels, H, W) images -> (N, classes) logits.

    conv 6@5x5 (padded) - activation - pool 2 - conv 16@5x5 - activation - pool 2 - hidden - 84 - classes. activation: any
    name of ``nn.activations``; pooling: "max" or "avg"; init: "default" (PyTorch's), or a name of ``nn.init``
    ("xavier_normal", say) with biases of zero.
    Raises ParameterError for an unknown name, ShapeError for too small an image.
    Source: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition".

    >>> lenet().state_dict()["3.weight"].shape
    (16, 6, 5, 5)
    >>> lenet(activation="sigmoid", padding=0, hidden=128, init="xavier_normal").state_dict()["7.weight"].shape
    (128, 256)
    """
    act, pool = activation_named(activation, "lenet"), choice("lenet", "pooling", pooling, POOLINGS)
    weights = choice("lenet", "init", init, {"default": None, **INITS})
    pixels = size_after("lenet", image_size, (5, 1, padding), (2, 2, 0), (5, 1, 0), (2, 2, 0))
    net = nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=padding), act(), pool(2),
        nn.Conv2d(6, 16, 5), act(), pool(2),
        nn.Flatten(),
        nn.Linear(16 * pixels, hidden), act(),
        nn.Linear(hidden, 84), act(),
        nn.Linear(84, classes),
    )  # fmt: skip
    if weights is not None:
        draw_weights(net, weights)
    return net
