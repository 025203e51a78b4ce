"""What a network that came from a file may cost when an image goes through it: known, and refused, before it is paid."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gpucnn import limits, nn
from gpucnn.errors import ParameterError

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
    >>> with bounded(net):
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
        weight = getattr(layer, "weight", None)
        if isinstance(layer, (nn.Conv2d, nn.Conv1d, nn.ConvTranspose2d)) and weight is not None:
            work += max(numbers, inputs[0].size) * weight.size // weight.shape[0]
        limits.check(kind, "multiply-adds", work, MULTIPLY_ADDS, ParameterError)

    with ExitStack() as stack:
        for layer in net.modules():
            if not list(layer.children()):
                stack.callback(layer.register_forward_pre_hook(before).remove)
        yield


def output_size(layer: Any, shape: tuple[int, ...]) -> int:
    """Return how many numbers a layer makes of an input of this shape, or somewhat more.

    >>> output_size(nn.Conv2d(1, 6, 5, padding=2), (1, 1, 28, 28))
    6534
    """
    if isinstance(layer, nn.Linear):
        return math.prod(shape[:-1]) * layer.out_features
    if len(shape) < 3:
        return math.prod(shape)
    axes = len(shape) - 2
    maps = shape[0] * getattr(layer, "out_channels", shape[1])
    sides = shape[2:]
    if isinstance(layer, (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)):
        sides = tuple(asked or n for asked, n in zip(_each(layer.output_size, axes), sides, strict=True))
    elif hasattr(layer, "kernel_size"):
        kernel = _each(layer.kernel_size, axes)
        stride = kernel if layer.stride is None else _each(layer.stride, axes)
        dilation = _each(getattr(layer, "dilation", 1), axes)
        if isinstance(layer, (nn.ConvTranspose2d, nn.MaxUnpool2d)):
            sides = tuple(n * s + k * d + s for n, s, k, d in zip(sides, stride, kernel, dilation, strict=True))
        else:
            border = [_border(layer.padding, k * d) for k, d in zip(kernel, dilation, strict=True)]
            sides = tuple((n + b) // max(s, 1) + 1 for n, b, s in zip(sides, border, stride, strict=True))
    return maps * math.prod(sides)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes


def _border(padding: Any, window: int) -> int:
    """Return at least how much longer padding makes an axis."""
    if isinstance(padding, str):
        return 0 if padding == "valid" else 2 * window
    return 2 * padding if isinstance(padding, int) else 2 * max(padding, default=0)
