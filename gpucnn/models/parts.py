"""Helpers of the networks: activations, pooling and initial weights by name, and image sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn import nn
from gpucnn.autograd import Tensor
from gpucnn.backend.geometry import Pair
from gpucnn.errors import ParameterError
from gpucnn.functional.arguments import Padding, PairLike, pair, read_window
from gpucnn.nn import init
from gpucnn.nn.activation import ACTIVATIONS

POOLINGS: dict[str, Callable[[int], nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
INITS: dict[str, Callable[[Tensor], Tensor]] = {
    name: how for name, how in init.INITIALISERS.items() if name not in ("constant", "zeros", "ones")
}
USUAL = ("relu", "sigmoid", "tanh")


def activation_named(name: Any, where: str) -> Callable[[], nn.Module]:
    """Return a factory of the activation layer of this name; ParameterError for an unknown name.

    >>> activation_named("hard sigmoid", "lenet")()
    Hardsigmoid()
    """
    try:
        nn.activation(name if isinstance(name, str) else "")
    except ParameterError:
        others = ", ".join(sorted(set(ACTIVATIONS) - set(USUAL)))
        words = f"one of {others}, or the usual {' or '.join(USUAL)}"
        raise ParameterError.expected(where, "activation", words, repr(name)) from None
    return lambda: nn.activation(name)


def choice(where: str, argument: str, name: Any, known: dict[str, Any]) -> Any:
    """Return ``known[name]``; ParameterError for an unknown name.

    >>> choice("lenet", "pooling", "max", POOLINGS).__name__
    'MaxPool2d'
    """
    if not isinstance(name, str) or name not in known:
        raise ParameterError.expected(where, argument, " or ".join(known), repr(name))
    return known[name]


def size_after(where: str, image_size: Any, *windows: tuple[PairLike, PairLike, Padding]) -> int:
    """Return the pixels (height times width) of an image after a sequence of windows (kernel, stride, padding).

    image_size: the side of a square image, or (height, width). ParameterError for other values, ShapeError if a window does
    not fit.

    >>> size_after("lenet", 28, (5, 1, 2), (2, 2, 0)), size_after("lenet", (20, 32), (2, 2, 0))
    (196, 160)
    """
    size: Pair = pair(image_size, where, "image_size")
    for kernel, stride, padding in windows:
        size = read_window(where, size, kernel, stride, padding).output_size(*size)
    return size[0] * size[1]


def draw_weights(net: nn.Module, weights: Callable[[Tensor], Tensor]) -> None:
    """Initialise every weight of at least two dimensions with ``weights``, and the biases of those layers with zero.

    >>> layer = nn.Linear(2, 1)
    >>> draw_weights(layer, init.ones_)
    >>> layer.weight.tolist(), layer.bias.tolist()
    ([[1.0, 1.0]], [0.0])
    """
    for _, layer in net.named_modules():
        parameters = dict(layer.named_parameters()) if not list(layer.children()) else {}
        if "weight" in parameters and parameters["weight"].ndim >= 2:
            weights(parameters["weight"])
            if "bias" in parameters:
                init.zeros_(parameters["bias"])
