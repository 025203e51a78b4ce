"""Fusion: consecutive layers that ``Sequential`` runs as one operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from gpucnn.autograd import Tensor, is_grad_enabled
from gpucnn.errors import GpucnnError
from gpucnn.functional.conv import conv2d_folded, conv2d_relu_max_pool2d
from gpucnn.functional.linear import linear_relu
from gpucnn.nn.activation import ReLU
from gpucnn.nn.conv import Conv2d
from gpucnn.nn.linear import Linear
from gpucnn.nn.module import Module
from gpucnn.nn.norm import BatchNorm2d
from gpucnn.nn.pool import MaxPool2d

if TYPE_CHECKING:
    from gpucnn.autograd import Parameter

Fused = Callable[[Tensor], Tensor]


def or_one_by_one(fused: Fused, layers: Sequence[Module]) -> Fused:
    """Return an operation that runs the layers one by one where the fused one fails, so that the error names the layer.

    For operations that change nothing: a batch norm in training names itself.
    """

    def run(x: Any) -> Any:
        try:
            return fused(x)
        except GpucnnError:
            for layer in layers:
                x = layer(x)
            return x

    return run


def conv_relu_pool(layers: Sequence[Module]) -> Fused | None:
    """Fuse convolution, ReLU, and 2x2 max-pooling with stride 2; None if an option prevents it."""
    conv, _, pool = layers
    assert isinstance(conv, Conv2d)
    assert isinstance(pool, MaxPool2d)
    plain = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
    if pool.zero_padded or not _is_plain(conv) or plain != ((2, 2), (2, 2), 0, (1, 1), False):
        return None
    weight = cast("Parameter", conv.weight)

    def fused(x: Tensor) -> Tensor:
        return conv2d_relu_max_pool2d(
            x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups, conv.exact
        )

    return or_one_by_one(fused, layers)


def conv_norm(layers: Sequence[Module]) -> Fused | None:
    """Fuse convolution, batch norm and perhaps ReLU: in evaluation without gradients they are one convolution.

    The batch norm's scale and shift are folded into filters and bias at each call, so that changed weights are seen.
    In training, batch norm and ReLU are one operation. None if an option prevents it.
    """
    conv, norm = layers[:2]
    assert isinstance(conv, Conv2d)
    assert isinstance(norm, BatchNorm2d)
    relu, mean, var = len(layers) == 3, norm.running_mean, norm.running_var
    if norm.training or is_grad_enabled() or mean is None or var is None:
        return (lambda x: norm(conv(x), relu=True)) if relu else None
    weight = cast("Parameter", conv.weight)
    if not _is_plain(conv) or (mean.dtype, mean.shape) != (weight.dtype, weight.shape[:1]):
        return None

    def folded(x: Tensor) -> Tensor:
        statistics = mean, var, norm.weight, norm.bias
        return conv2d_folded(
            x, weight, conv.bias, *statistics, norm.eps, relu, conv.stride, conv.padding, conv.dilation, conv.groups,
            conv.exact,
        )  # fmt: skip

    return or_one_by_one(folded, layers)


def linear_with_relu(layers: Sequence[Module]) -> Fused:
    """Fuse a fully connected layer and ReLU: one operation on the tape where there were two."""
    layer = layers[0]
    assert isinstance(layer, Linear)
    if layer.weight is None:  # its size is not known yet
        return lambda x: layers[1](layer(x))
    weight = layer.weight
    return or_one_by_one(lambda x: linear_relu(x, weight, layer.bias), layers)


def norm_relu(layers: Sequence[Module]) -> Fused | None:
    """Fuse batch norm and ReLU."""
    norm = layers[0]
    assert isinstance(norm, BatchNorm2d)
    return lambda x: norm(x, relu=True)


def _is_plain(conv: Conv2d) -> bool:
    """Whether a convolution is what a fused operation computes."""
    per_position = conv.bias is not None and conv.bias.ndim == 3
    return (
        conv.weight is not None and not per_position and (conv.padding_mode, conv.implementation) == ("zeros", "auto")
    )


Pattern = Callable[[Sequence[Module]], Fused | None]
PATTERNS: dict[type[Module], list[tuple[tuple[type[Module], ...], Pattern]]] = {}
"""By the class of the first layer: classes of consecutive layers, and what makes one operation of them, longest first."""


def add_pattern(kinds: tuple[type[Module], ...], make: Pattern) -> None:
    """Also fuse layers of these classes: for containers, which import this module."""
    patterns = PATTERNS.setdefault(kinds[0], [])
    patterns.append((kinds, make))
    patterns.sort(key=lambda pattern: -len(pattern[0]))


add_pattern((Conv2d, ReLU, MaxPool2d), conv_relu_pool)
add_pattern((Conv2d, BatchNorm2d, ReLU), conv_norm)
add_pattern((Conv2d, BatchNorm2d), conv_norm)
add_pattern((BatchNorm2d, ReLU), norm_relu)
add_pattern((Linear, ReLU), linear_with_relu)


def fuse(layers: Sequence[Module], index: int) -> tuple[Fused, int] | None:
    """Return one operation for several layers from ``index`` on, and their number; None if no pattern matches.

    Only layers of exactly these classes and without hooks are fused, so that hooks and subclasses run.
    """
    for kinds, make in PATTERNS.get(type(layers[index]), ()):
        first = layers[index : index + len(kinds)]
        if tuple(map(type, first)) == kinds and not any(layer.has_hooks() for layer in first):
            fused = make(first)
            if fused is not None:
                return fused, len(kinds)
    return None
