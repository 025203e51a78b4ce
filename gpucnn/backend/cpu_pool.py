"""Pooling on the CPU: one pass over the image for each element of the window, some channels at a time.

All arrays here are (C, H, W, N), the batch innermost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.base import Divisor
from gpucnn.backend.cpu_conv import Block, Cut
from gpucnn.backend.cpu_conv import elements as kernel_elements
from gpucnn.backend.window import Window

if TYPE_CHECKING:
    from gpucnn.backend.cpu import CpuBackend

Array = Any
Shape = tuple[int, int, int, int]

BLOCK_BYTES = 512 * 1024
"""Size of the channels worked on together, so that every pass but the first finds them in the second-level cache."""


def elements(window: Window, H: int, W: int) -> Iterator[tuple[int, Cut, Cut]]:
    """Yield for each window element its number, the output pixels for which it lies in the image, and what they see."""
    OH, OW = window.output_size(H, W)
    for kh, kw, out, seen in kernel_elements(window, Block(slice(0, OH), slice(0, OW)), H, W):
        yield kh * window.kernel[1] + kw, out, seen


def channel_blocks(image: Array) -> Iterator[slice]:
    """Cut the channels of a (C, H, W, N) image into blocks that fit the cache."""
    C = image.shape[0]
    count = max(BLOCK_BYTES * C // max(image.nbytes, 1), 1)
    return (slice(first, min(first + count, C)) for first in range(0, C, count))


def maximum(backend: CpuBackend, x: Array, window: Window, needs_place: bool) -> tuple[Array, Array | None]:
    """Return y (N, C, OH, OW) and the place of each maximum: the later element wins only by being greater.

    The place of a NaN is not found (nothing is greater): ``_place_nans`` then does that.
    """
    N, C, H, W = x.shape
    OH, OW = window.output_size(H, W)
    inner = backend.innermost(x)
    count = window.kernel[0] * window.kernel[1]
    kind = np.uint8 if count <= 256 else np.int32
    y = backend.workspace.empty((C, OH, OW, N), x.dtype)
    place = backend.workspace.empty(y.shape, kind) if needs_place else None
    inside = list(elements(window, H, W))
    first_inside = np.full((OH, OW, 1), count, kind)
    for k, out, _ in reversed(inside):
        first_inside[out] = k

    def work(mine: slice) -> None:
        best = y[mine]
        best[...] = -np.inf
        if place is None:
            for _, out, seen in inside:
                np.maximum(best[:, *out], inner[mine, *seen], out=best[:, *out])
            return
        chosen = place[mine]
        chosen[...] = first_inside
        greater, candidate = np.empty(best.shape, bool), np.empty(best.shape, kind)
        for k, out, seen in inside:
            pixels = inner[mine, *seen]
            np.greater(pixels, best[:, *out], out=greater[:, *out])
            np.multiply(greater[:, *out].view(np.uint8), kind(k), out=candidate[:, *out])
            np.maximum(chosen[:, *out], candidate[:, *out], out=chosen[:, *out])
            np.maximum(best[:, *out], pixels, out=best[:, *out])
        if np.isnan(best.max()):
            _place_nans(inside, inner[mine], chosen)

    for mine in channel_blocks(inner):
        work(mine)
    return y.transpose(3, 0, 1, 2), None if place is None else place.transpose(3, 0, 1, 2)


def _place_nans(inside: list[tuple[int, Cut, Cut]], inner: Array, chosen: Array) -> None:
    """Make each window with a NaN choose the first one."""
    for k, out, seen in reversed(inside):
        chosen[:, *out][np.isnan(inner[:, *seen])] = k


def maximum_gradient(backend: CpuBackend, dy: Array, place: Array, shape: Shape, window: Window) -> Array:
    """Return dL/dx of ``shape``: for each window element, the gradients of the outputs that chose it."""
    N, C, H, W = shape
    dx, gradient, chosen = _new(backend, dy, shape), backend.innermost(dy), backend.innermost(place)
    inside, apart = list(elements(window, H, W)), _windows_apart(window)

    def work(mine: slice) -> None:
        dx[mine] = 0
        won = np.empty(chosen[mine].shape, bool)
        for k, out, seen in inside:
            target = dx[mine, *seen]
            np.equal(chosen[mine, *out], k, out=won[:, *out])
            if apart:  # each pixel belongs to one window at most
                np.multiply(gradient[mine, *out], won[:, *out], out=target)
            else:
                target += gradient[mine, *out] * won[:, *out]

    for mine in channel_blocks(dx):
        work(mine)
    return dx.transpose(3, 0, 1, 2)


def average(backend: CpuBackend, x: Array, window: Window, divisor: Divisor) -> Array:
    """Return y (N, C, OH, OW): the sum over each window, over ``divisor``."""
    N, C, H, W = x.shape
    OH, OW = window.output_size(H, W)
    inner, inside = backend.innermost(x), list(elements(window, H, W))
    y = backend.workspace.empty((C, OH, OW, N), x.dtype)
    share_of_each = _reciprocal(divisor, x.dtype)

    def work(mine: slice) -> None:
        total = y[mine]
        total[...] = 0
        for _, out, seen in inside:
            total[:, *out] += inner[mine, *seen]
        total *= share_of_each

    for mine in channel_blocks(inner):
        work(mine)
    return y.transpose(3, 0, 1, 2)


def average_gradient(backend: CpuBackend, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> Array:
    """Return dL/dx of ``shape``: each output's gradient over ``divisor``, to every pixel of its window."""
    N, C, H, W = shape
    dx, gradient, inside = _new(backend, dy, shape), backend.innermost(dy), list(elements(window, H, W))
    share_of_each, apart = _reciprocal(divisor, dy.dtype), _windows_apart(window)

    def work(mine: slice) -> None:
        dx[mine] = 0
        each = gradient[mine] * share_of_each
        for _, out, seen in inside:
            if apart:
                dx[mine, *seen] = each[:, *out]
            else:
                dx[mine, *seen] += each[:, *out]

    for mine in channel_blocks(dx):
        work(mine)
    return dx.transpose(3, 0, 1, 2)


def _new(backend: CpuBackend, like: Array, shape: Shape) -> Array:
    N, C, H, W = shape
    return backend.workspace.empty((C, H, W, N), like.dtype)


def _windows_apart(window: Window) -> bool:
    return window.stride[0] >= window.extent[0] and window.stride[1] >= window.extent[1]


def _reciprocal(divisor: Divisor, dtype: Any) -> Array:
    if isinstance(divisor, tuple):
        rows, columns = (np.asarray(counts, dtype) for counts in divisor)
        return 1 / (rows[:, None] * columns)[:, :, None]
    return dtype.type(1 / divisor)
