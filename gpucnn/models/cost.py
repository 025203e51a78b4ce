"""Bounds on the cost of a forward pass of a network from a file, checked before each layer runs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gpucnn import limits, nn
from gpucnn.errors import GpucnnError, ParameterError

ACTIVATIONS = 2**24
"""Activations of one layer for one image: 64 MiB of float32. VGG-16 has 2**22."""

ALL_ACTIVATIONS = 2**26
"""Activations of all layers. VGG-16 has 2**24."""

MULTIPLY_ADDS = 2**36
"""Multiply-adds of all layers for one image. VGG-16 has 2**34."""


@contextmanager
def bounded(net: nn.Module) -> Iterator[None]:
    """Within the block, raise ParameterError before a layer of ``net`` exceeds the bounds, if they apply.

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
    """Return the number of activations of a layer for this input shape; the input's size if the layer does not know it.

    >>> output_size(nn.Conv2d(1, 6, 5, padding=2), (1, 1, 28, 28))
    4704
    """
    if isinstance(layer, nn.Layer):
        try:
            return math.prod(layer.output_shape(shape))
        except (GpucnnError, NotImplementedError):  # the layer itself reports a wrong shape better
            pass
    return math.prod(shape)


def work_of(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of a layer for this input shape; 0 if the layer does not know them."""
    try:
        return layer.multiply_adds(shape) if isinstance(layer, nn.Layer) else 0
    except GpucnnError:
        return 0
