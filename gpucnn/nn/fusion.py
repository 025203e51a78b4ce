"""Fusion: consecutive layers that ``Sequential`` runs as one operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpucnn.autograd import Tensor
from gpucnn.errors import GpucnnError
from gpucnn.functional.conv import conv2d_relu_max_pool2d
from gpucnn.nn.activation import ReLU
from gpucnn.nn.conv import Conv2d
from gpucnn.nn.module import Module
from gpucnn.nn.pool import MaxPool2d

Fused = Callable[[Tensor], Tensor]


def conv_relu_pool(layers: Sequence[Module]) -> Fused | None:
    """Fuse convolution, ReLU, and 2x2 max-pooling with stride 2; None if an option prevents it."""
    conv, _, pool = layers
    assert isinstance(conv, Conv2d)
    assert isinstance(pool, MaxPool2d)
    plain = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    usual = (conv.padding_mode, conv.implementation) == ("zeros", "auto")
    weight = conv.weight
    per_position = conv.bias is not None and conv.bias.ndim == 3
    if weight is None or per_position or not usual or plain != ((2, 2), (2, 2), 0, (1, 1), False):
        return None

    def fused(x: Tensor) -> Tensor:
        try:
            return conv2d_relu_max_pool2d(
                x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups, conv.exact
            )
        except GpucnnError:  # run one by one, so that the error names the layer
            for layer in layers:
                x = layer(x)
            return x

    return fused


PATTERNS: tuple[tuple[tuple[type[Module], ...], Callable[[Sequence[Module]], Fused | None]], ...] = (
    ((Conv2d, ReLU, MaxPool2d), conv_relu_pool),
)
FIRST = {kinds[0] for kinds, _ in PATTERNS}


def fuse(layers: Sequence[Module], index: int) -> tuple[Fused, int] | None:
    """Return one operation for several layers from ``index`` on, and their number; None if no pattern matches.

    Only layers of exactly these classes and without hooks are fused, so that hooks and subclasses run.
    """
    if type(layers[index]) not in FIRST:
        return None
    for kinds, make in PATTERNS:
        first = layers[index : index + len(kinds)]
        if tuple(type(layer) for layer in first) == kinds and not any(layer.has_hooks() for layer in first):
            fused = make(first)
            if fused is not None:
                return fused, len(kinds)
    return None
