"""LeNet."""

from __future__ import annotations

from gpucnn import nn
from gpucnn.errors import ParameterError
from gpucnn.functional.arguments import Padding, read_window

ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
POOLINGS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


def lenet(
    classes: int = 10,
    in_channels: int = 1,
    activation: str = "relu",
    pooling: str = "max",
    padding: Padding = 2,
    image_size: int = 28,
) -> nn.Sequential:
    """Return LeNet-5 in its modern form: (N, in_channels, image_size, image_size) images -> (N, classes) logits.

    conv 6@5x5 (padded) - activation - pool 2 - conv 16@5x5 - activation - pool 2 - 120 - 84 - classes. activation: "relu",
    "sigmoid" or "tanh"; pooling: "max" or "avg". Raises ParameterError for another name, ShapeError for too small an image.
    Source: LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition".

    >>> lenet().state_dict()["3.weight"].shape
    (16, 6, 5, 5)
    """
    if activation not in ACTIVATIONS:
        raise ParameterError.expected("lenet", "activation", " or ".join(ACTIVATIONS), repr(activation))
    if pooling not in POOLINGS:
        raise ParameterError.expected("lenet", "pooling", " or ".join(POOLINGS), repr(pooling))
    act, pool = ACTIVATIONS[activation], POOLINGS[pooling]
    size = (image_size, image_size)
    for kernel, stride, border in ((5, 1, padding), (2, 2, 0), (5, 1, 0), (2, 2, 0)):
        size = read_window("lenet", size, kernel, stride, border).output_size(*size)
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=padding), act(), pool(2),
        nn.Conv2d(6, 16, 5), act(), pool(2),
        nn.Flatten(),
        nn.Linear(16 * size[0] * size[1], 120), act(),
        nn.Linear(120, 84), act(),
        nn.Linear(84, classes),
    )  # fmt: skip
