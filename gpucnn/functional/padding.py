"""Padding images with zeros, by reflection or by replicating the border."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, Window, ops
from gpucnn.checks import check_choice
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import Padding, PairLike, image_batch, pair, sides, unbatch

PADDING_MODES = ("zeros", "reflect", "replicate")


@dataclass(frozen=True)
class Extension:
    """The padding of one axis: the source row of each output row (None: zeros), and where the image starts."""

    sources: tuple[int | None, ...]
    first: int
    length: int

    @property
    def inside(self) -> slice:
        return slice(self.first, self.first + self.length)

    def border(self) -> Iterator[tuple[int, int]]:
        """Yield (row of the result, row of the image that it copies)."""
        for i, source in enumerate(self.sources):
            if source is not None and not self.first <= i < self.first + self.length:
                yield i, source


def _pad2d(backend: Backend, x: Array, requires_grad: RequiresGrad, rows: Extension, columns: Extension) -> Result:
    """On arrays: pad the rows, then the columns."""
    y = _extend(backend, _extend(backend, x, rows, 2), columns, 3)
    return y, (lambda dy: (_fold(backend, _fold(backend, dy, columns, 3), rows, 2),)) if requires_grad[0] else None


def _extend(backend: Backend, x: Array, extension: Extension, axis: int) -> Array:
    return ops.extend(backend, x, axis, len(extension.sources), extension.inside, list(extension.border()))


def _fold(backend: Backend, dy: Array, extension: Extension, axis: int) -> Array:
    return ops.extend_gradient(backend, dy, axis, extension.inside, list(extension.border()))


def _extension(n: int, before: int, after: int, mode: str) -> Extension:
    positions = range(-before, n + after)
    sources: list[int | None]
    if mode == "zeros":
        sources = [i if 0 <= i < n else None for i in positions]
    elif mode == "replicate":
        sources = [min(max(i, 0), n - 1) for i in positions]
    else:
        period = max(2 * (n - 1), 1)
        sources = [min(i % period, period - i % period) for i in positions]
    return Extension(tuple(sources), before, n)


def pad2d(
    input: Tensor,
    padding: Padding,
    mode: str = "zeros",
    *,
    kernel_size: PairLike = 1,
    stride: PairLike = 1,
    dilation: PairLike = 1,
) -> Tensor:
    """Return images (N, C, H, W), or one (C, H, W), with padding around them.

    padding: an int, a pair (rows, columns) or four sides (top, bottom, left, right), each at least 0; or "valid" (none),
    "same" or "full", as a convolution of this kernel_size, stride and dilation pads.
    mode: "zeros"; "reflect", which mirrors at the border pixel without repeating it (padding less than the image's size);
    or "replicate", which repeats the border pixel. Raises ParameterError, and ShapeError for too large a reflection.

    >>> import gpucnn
    >>> pad2d(gpucnn.tensor([[[[1.0, 2.0, 3.0]]]]), (0, 0, 2, 1), "reflect").tolist()
    [[[[3.0, 2.0, 1.0, 2.0, 3.0, 2.0]]]]
    """
    check_choice(mode, "pad2d", "mode", PADDING_MODES)
    x, added = image_batch(input, "pad2d")
    H, W = x.shape[2:]
    spread = pair(dilation, "pad2d", "dilation")
    window = Window(pair(kernel_size, "pad2d", "kernel_size"), pair(stride, "pad2d", "stride"), dilation=spread)
    top, bottom, left, right = sides(padding, window, H, W, "pad2d")
    if mode == "reflect" and (max(top, bottom) >= H or max(left, right) >= W):
        raise ShapeError.expected("pad2d", "padding", f"less than the image's size {H}x{W} to reflect", padding)
    if mode != "zeros" and min(H, W) < 1:
        raise ShapeError.expected("pad2d", "input", "at least one pixel", f"{H}x{W}")
    rows, columns = _extension(H, top, bottom, mode), _extension(W, left, right, mode)
    return unbatch(apply(_pad2d, x, rows=rows, columns=columns), added)
