"""What a network that came from a file may cost when an image goes through it: known, and refused, before it is paid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gpucnn import limits, nn
from gpucnn.errors import GpucnnError, ParameterError

ACTIVATIONS = 2**24
"""Numbers in the output of one layer, for one image: 64 MiB of float32; VGG-16 has 2**22."""

ALL_ACTIVATIONS = 2**26
"""Numbers in the outputs of all layers; VGG-16 has 2**24."""

MULTIPLY_ADDS = 2**36
"""Of all layers, for one image; VGG-16 has 2**34."""


@contextmanager
def bounded(net: nn.Module) -> Iterator[None]:
    """Within the block, raise ParameterError before a layer of ``net`` would go beyond the bounds, where these apply.

    >>> import gpucnn
    >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(30000))
    >>> with bounded(net):  # doctest: +ELLIPSIS
    ...     net(gpucnn.tensor([[[[0.0]]]]))
    Traceback (most recent call last):
    gpucnn.errors.ParameterError: AdaptiveAvgPool2d: expected at most 16,777,216 numbers in its output, got 900,000,000. ...
    """
    outputs = work = 0

    def before(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal outputs, work
        numbers = output_size(layer, inputs[0].shape)
        kind = type(layer).__name__
        limits.check(kind, "numbers in its output", numbers, ACTIVATIONS, ParameterError)
        outputs += numbers
        limits.check(kind, "numbers in all outputs", outputs, ALL_ACTIVATIONS, ParameterError)
        work += work_of(layer, inputs[0].shape)
        limits.check(kind, "multiply-adds", work, MULTIPLY_ADDS, ParameterError)

    with ExitStack() as stack:
        for layer in net.modules():
            if not list(layer.children()):
                stack.callback(layer.register_forward_pre_hook(before).remove)
        yield


def output_size(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Return how many numbers a layer makes of an input of this shape; as many as that has, of one that does not tell.

    >>> output_size(nn.Conv2d(1, 6, 5, padding=2), (1, 1, 28, 28))
    4704
    """
    if isinstance(layer, nn.Layer):
        try:
            return math.prod(layer.output_shape(shape))
        except (GpucnnError, NotImplementedError):  # a shape that does not fit is better told by the layer itself
            pass
    return math.prod(shape)


def work_of(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of a layer on an input of this shape; 0 of one that does not tell."""
    try:
        return layer.multiply_adds(shape) if isinstance(layer, nn.Layer) else 0
    except GpucnnError:
        return 0
