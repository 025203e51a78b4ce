"""Windows as ONNX describes them: kernel_shape, strides, dilations, pads and auto_pad; sequences as images of one row."""

from __future__ import annotations

from collections.abc import Callable

from gpucnn.autograd import Tensor
from gpucnn.backend.geometry import Pair, Sides
from gpucnn.onnx.graph import Node

Ints = tuple[int, ...]
LARGEST = 2**20
"""Largest kernel, stride, dilation or padding along one axis."""


def spatial(node: Node, name: str, count: int, default: int, least: int = 1) -> Ints:
    """Return an attribute with a number for each of ``count`` axes."""
    values = node.ints(name, (default,) * count, count)
    if not all(least <= value <= LARGEST for value in values):
        raise node.expected(name, f"ints from {least} to {LARGEST}", values)
    return values


def same_sides(size: Ints, kernel: Ints, stride: Ints, dilation: Ints, lower: bool) -> list[Pair]:
    """Return the padding of each axis for ceil(n / stride) outputs; ``lower``: the odd one before, not after."""
    found = []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
        found.append((total - total // 2, total // 2) if lower else (total // 2, total - total // 2))
    return found


def window_of(node: Node, kernel: Ints, size: Ints) -> tuple[Pair, Pair, Sides, Pair]:
    """Return kernel, stride, padding (top, bottom, left, right) and dilation for images of this size, or sequences."""
    count = len(size)
    stride, dilation = spatial(node, "strides", count, 1), spatial(node, "dilations", count, 1)
    auto = node.text("auto_pad", "NOTSET", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))
    pads: list[Pair] = [(0, 0)] * count
    if auto == "NOTSET":
        given = node.ints("pads", (0,) * 2 * count, 2 * count)
        if not all(0 <= pad <= LARGEST for pad in given):
            raise node.expected("pads", f"ints from 0 to {LARGEST}", given)
        pads = list(zip(given[:count], given[count:], strict=True))
    elif auto != "VALID":
        pads = same_sides(size, kernel, stride, dilation, auto == "SAME_LOWER")
    if count == 1:
        kernel, stride, dilation, pads = (1, *kernel), (1, *stride), (1, *dilation), [(0, 0), *pads]
    (top, bottom), (left, right) = pads
    return (kernel[0], kernel[1]), (stride[0], stride[1]), (top, bottom, left, right), (dilation[0], dilation[1])


def images(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return sequences (N, C, L) as images of one row, images as they are; and a function that converts results back."""
    if x.ndim == 4:
        return x, lambda y: y
    return x.reshape(*x.shape[:2], 1, x.shape[2]), lambda y: y.reshape(*y.shape[:2], y.shape[3])
