"""Pooling: each window of a channel becomes one pixel."""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, Window
from gpucnn.backend.geometry import Pair, Sides
from gpucnn.backend.ops.pool import Divisor
from gpucnn.checks import MOST, check_flag, is_count, shown
from gpucnn.errors import ParameterError
from gpucnn.functional.arguments import Padding, PairLike, check_float, image_batch, pair, read_window, sides, unbatch


def maximum(backend: Backend, x: Array, needs: Needs, window: Window) -> Result:
    """Array level: keeps the place of each maximum, one or two bytes each."""
    y, place = backend.max_pool2d(x, window, needs[0])
    shape = x.shape
    return y, (lambda dy: (backend.max_pool2d_gradient(dy, place, shape, window),)) if needs[0] else None


def average(backend: Backend, x: Array, needs: Needs, window: Window, divisor: Divisor) -> Result:
    """Array level: keeps nothing."""
    y = backend.avg_pool2d(x, window, divisor)
    shape = x.shape
    return y, (lambda dy: (backend.avg_pool2d_gradient(dy, shape, window, divisor),)) if needs[0] else None


def max_pool2d(
    input: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: Padding = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the maximum of each window: (N, C, H, W) -> (N, C, OH, OW), floating dtypes; one (C, H, W) image too.

    stride is the kernel size by default. Padding never wins, NaN always does; of equal maxima the first in row-major
    order gets the gradient. ceil_mode keeps a last window that hangs over the edge.
    Raises ShapeError, DTypeError, and ParameterError for padding as large as the window.
    Source: Ranzato et al. 2007; Goodfellow, Bengio & Courville 2016, section 9.3.

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]])
    >>> max_pool2d(x, 2, stride=1).tolist()
    [[[4.0, 5.0], [7.0, 8.0]]]
    """
    x, single = image_batch(input, "max_pool2d")
    check_float(x, "max_pool2d")
    window, _ = pooling_window("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    return unbatch(apply(maximum, x, window=window), single)


def avg_pool2d(
    input: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    dilation: PairLike = 1,
) -> Tensor:
    """Return the mean of each window: (N, C, H, W) -> (N, C, OH, OW), floating dtypes; one (C, H, W) image too.

    stride is the kernel size by default. Padded pixels count as zeros, or with count_include_pad=False not at all; what
    ceil_mode lets hang over the edge never counts. divisor_override replaces the count.
    Raises ShapeError, DTypeError, and ParameterError for padding as large as the window.
    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition" (subsampling layers).

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]])
    >>> avg_pool2d(x, 2, stride=1).tolist()
    [[[2.0, 3.0], [5.0, 6.0]]]
    """
    x, single = image_batch(input, "avg_pool2d")
    check_float(x, "avg_pool2d")
    size: Pair = x.shape[2:]  # type: ignore[assignment]
    window, asked = pooling_window("avg_pool2d", size, kernel_size, stride, padding, dilation, ceil_mode)
    if divisor_override is not None:
        check_divisor(divisor_override, "avg_pool2d")
        divisor: Divisor = float(divisor_override)
    else:
        check_flag(count_include_pad, "avg_pool2d", "count_include_pad")
        divisor = window_counts(window, asked if count_include_pad else (0, 0, 0, 0), size)
    return unbatch(apply(average, x, window=window, divisor=divisor), single)


def check_divisor(value: int, where: str) -> int:
    if not is_count(value, -MOST) or value == 0:
        raise ParameterError.expected(where, "divisor_override", "a non-zero int", shown(value))
    return int(value)


def pooling_window(
    where: str,
    size: Pair,
    kernel_size: PairLike,
    stride: PairLike | None,
    padding: Padding,
    dilation: PairLike,
    ceil_mode: bool,
) -> tuple[Window, Sides]:
    """Return the window, padded further at the bottom and right where ceil_mode needs it, and the padding asked for."""
    kernel = pair(kernel_size, where, "kernel_size")
    check_flag(ceil_mode, where, "ceil_mode")
    stride = kernel if stride is None else stride
    window = Window(kernel, pair(stride, where, "stride"), (0, 0, 0, 0), pair(dilation, where, "dilation"))
    asked = pooling_sides(where, size, window, padding)
    whole = asked
    if ceil_mode:
        below = _overhang(size[0], window.extent[0], window.stride[0], asked[0], asked[1])
        right = _overhang(size[1], window.extent[1], window.stride[1], asked[2], asked[3])
        whole = (asked[0], asked[1] + below, asked[2], asked[3] + right)
    return read_window(where, size, kernel, stride, whole, dilation), asked


def pooling_sides(where: str, size: Pair, window: Window, padding: Padding) -> Sides:
    """Return padding as (top, bottom, left, right); ParameterError where a window would lie in nothing but padding."""
    asked, (EH, EW) = sides(padding, window, *size, where), window.extent
    if max(asked[:2]) >= EH > 1 or max(asked[2:]) >= EW > 1:
        raise ParameterError.expected(where, "padding", f"less than the window {EH}x{EW}", shown(padding))
    return asked


def _overhang(n: int, extent: int, stride: int, before: int, after: int) -> int:
    """Return how far a last window reaches over the edge; it must start inside the image or the padding before it."""
    windows = -(-(n + before + after - extent) // stride) + 1
    if (windows - 1) * stride >= n + before:
        windows -= 1
    return max((windows - 1) * stride + extent - (n + before + after), 0)


def window_counts(window: Window, counted: Sides, size: Pair) -> Divisor:
    """Return how many elements of each window lie in the image or its ``counted`` padding."""
    (H, W), (OH, OW) = size, window.output_size(*size)
    top, _, left, _ = window.padding
    (KH, KW), (SH, SW), (DH, DW) = window.kernel, window.stride, window.dilation
    rows = _counts(OH, range(0, KH * DH, DH), SH, -top, -counted[0], H + counted[1])
    columns = _counts(OW, range(0, KW * DW, DW), SW, -left, -counted[2], W + counted[3])
    if len(set(rows)) == 1 and len(set(columns)) == 1:
        return float(rows[0] * columns[0])
    return rows, columns


def _counts(windows: int, offsets: range, stride: int, start: int, low: int, high: int) -> list[int]:
    """Return for each window along one axis how many of its elements lie from ``low`` to ``high`` (at least one)."""
    firsts = range(start, start + windows * stride, stride)
    return [max(sum(low <= first + offset < high for offset in offsets), 1) for first in firsts]
