"""Pooling: each window of a channel, or the whole channel, is reduced to one pixel. And unpooling."""

from __future__ import annotations

import functools
import math
from typing import Any

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, Window, ops
from gpucnn.backend.geometry import Pair, Sides
from gpucnn.backend.ops.pool import Divisor
from gpucnn.checks import MOST, check_flag, check_positive, is_count, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.functional.arguments import (
    Padding,
    PairLike,
    Single,
    check_float,
    check_tensor,
    image_batch,
    image_row,
    pair,
    read_window,
    row_padding,
    sides,
    single,
    unbatch,
)
from gpucnn.functional.conv import conv2d
from gpucnn.functional.padding import pad2d


def _max_pool2d(backend: Backend, x: Array, requires_grad: RequiresGrad, window: Window) -> Result:
    """On arrays. Keeps the argmax of each window, one or two bytes each."""
    y, indices = ops.max_pool2d(backend, x, window, requires_grad[0])
    shape = x.shape
    return y, (lambda dy: (ops.max_pool2d_gradient(backend, dy, indices, shape, window),)) if requires_grad[0] else None


def _avg_pool2d(backend: Backend, x: Array, requires_grad: RequiresGrad, window: Window, divisor: Divisor) -> Result:
    """On arrays. Keeps nothing."""
    y = ops.avg_pool2d(backend, x, window, divisor)
    shape = x.shape
    return y, (lambda dy: (ops.avg_pool2d_gradient(backend, dy, shape, window, divisor),)) if requires_grad[0] else None


def max_pool2d(
    input: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: Padding = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    zero_padded: bool = False,
) -> Any:
    """Return the maximum of each window: (N, C, H, W) -> (N, C, OH, OW), floating dtypes; one (C, H, W) image too.

    stride is the kernel size by default. Padding is never the maximum or, with zero_padded, counts as 0; NaN is always the
    maximum. Of equal maxima the first in row-major order receives the gradient. ceil_mode keeps a last window that extends
    past the edge. With return_indices a pair: the maxima, and their indices as ``max_pool2d_with_indices`` numbers them.
    Raises ShapeError, DTypeError, and ParameterError for padding as large as the window.
    Source: Ranzato et al. 2007; Goodfellow, Bengio & Courville 2016, section 9.3.

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]])
    >>> max_pool2d(x, 2, stride=1).tolist()
    [[[4.0, 5.0], [7.0, 8.0]]]
    """
    if check_flag(return_indices, "max_pool2d", "return_indices"):
        if zero_padded:
            raise ParameterError.expected("max_pool2d", "return_indices", "False where padding counts", "True")
        return max_pool2d_with_indices(input, kernel_size, stride, padding, dilation, ceil_mode)
    x, added = image_batch(input, "max_pool2d")
    check_float(x, "max_pool2d")
    if check_flag(zero_padded, "max_pool2d", "zero_padded"):
        _, around = pooling_window("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
        x, padding = pad2d(x, around), 0
    window, _ = pooling_window("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    return unbatch(apply(_max_pool2d, x, window=window), added)


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

    stride is the kernel size by default. Padded pixels count as zeros or, with count_include_pad=False, not at all. Pixels
    past the edge, which ceil_mode adds, never count. divisor_override replaces the count.
    Raises ShapeError, DTypeError, and ParameterError for padding as large as the window.
    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition" (subsampling layers).

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]])
    >>> avg_pool2d(x, 2, stride=1).tolist()
    [[[2.0, 3.0], [5.0, 6.0]]]
    """
    x, added = image_batch(input, "avg_pool2d")
    check_float(x, "avg_pool2d")
    y = _average(
        "avg_pool2d", x, kernel_size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override
    )
    return unbatch(y, added)


def _average(
    where: str,
    x: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None,
    padding: Padding,
    dilation: PairLike,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Average-pool a batch (N, C, H, W). ``where`` is the function name in errors."""
    size: Pair = x.shape[2:]  # type: ignore[assignment]
    window, asked = pooling_window(where, size, kernel_size, stride, padding, dilation, ceil_mode)
    check_flag(count_include_pad, where, "count_include_pad")
    if divisor_override is not None:
        divisor: Divisor = float(check_divisor(divisor_override, where))
    else:
        divisor = window_counts(window, asked if count_include_pad else (0, 0, 0, 0), size)
    return apply(_avg_pool2d, x, window=window, divisor=divisor)


def max_pool1d(
    input: Tensor,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Single = 0,
    dilation: Single = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maximum of each span of a sequence: (N, C, L) -> (N, C, OL), or one (C, L); see ``max_pool2d``.

    With return_indices a pair: the maxima and their indices in the sequence.

    >>> import gpucnn
    >>> max_pool1d(gpucnn.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[3.0, 2.0]]
    """
    x, unrow = image_row(input, "max_pool1d")
    check_float(x, "max_pool1d")
    span = row_window("max_pool1d", kernel_size, stride, padding, dilation)
    window, _ = pooling_window("max_pool1d", x.shape[2:], *span, ceil_mode)  # type: ignore[arg-type]
    y = unrow(apply(_max_pool2d, x, window=window))
    if check_flag(return_indices, "max_pool1d", "return_indices"):
        return y, unrow(apply(_max_pool2d_indices, x, window=window))
    return y


def avg_pool1d(
    input: Tensor,
    kernel_size: Single,
    stride: Single | None = None,
    padding: Single = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the mean of each span of a sequence: (N, C, L) -> (N, C, OL), or one (C, L); see ``avg_pool2d``.

    >>> import gpucnn
    >>> avg_pool1d(gpucnn.tensor([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[2.0, 1.0]]
    """
    x, unrow = image_row(input, "avg_pool1d")
    check_float(x, "avg_pool1d")
    kernel, steps, sides, _ = row_window("avg_pool1d", kernel_size, stride, padding, 1)
    return unrow(_average("avg_pool1d", x, kernel, steps, sides, 1, ceil_mode, count_include_pad, None))


def row_window(
    where: str, kernel_size: Single, stride: Single | None, padding: Single, dilation: Single
) -> tuple[Pair, Pair | None, Padding, Pair]:
    """Return kernel, stride, padding and dilation of a sequence as those of an image with one row."""
    return (
        (1, single(kernel_size, where, "kernel_size")),
        None if stride is None else (1, single(stride, where, "stride")),
        row_padding(padding, where),
        (1, single(dilation, where, "dilation")),
    )


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
    """Return the window, with the extra bottom and right padding of ceil_mode, and the padding without it."""
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
    """Return padding as (top, bottom, left, right); ParameterError if a window would see only padding."""
    asked, (EH, EW) = sides(padding, window, *size, where), window.extent
    if max(asked[:2]) >= EH > 1 or max(asked[2:]) >= EW > 1:
        raise ParameterError.expected(where, "padding", f"less than the window {EH}x{EW}", shown(padding))
    return asked


def _overhang(n: int, extent: int, stride: int, before: int, after: int) -> int:
    """Return how far the last window extends past the edge. It must start in the image or in the leading padding."""
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


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: Padding = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return ``max_pool2d`` and the index of each maximum, row * W + column within its channel, int64.

    >>> import gpucnn
    >>> y, indices = max_pool2d_with_indices(gpucnn.tensor([[[1.0, 5.0], [2.0, 3.0]]]), 2)
    >>> y.tolist(), indices.tolist()
    ([[[5.0]]], [[[1]]])
    """
    y = max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    x, added = image_batch(input, "max_pool2d")
    window, _ = pooling_window("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    return y, unbatch(apply(_max_pool2d_indices, x, window=window), added)


def _max_pool2d_indices(backend: Backend, x: Array, requires_grad: RequiresGrad, window: Window) -> Result:
    """On arrays: where in its channel each maximum is."""
    _, chosen = ops.max_pool2d(backend, x, window)
    return ops.indices_in_image(backend, chosen, window, x.shape), None


def _max_unpool2d(backend: Backend, x: Array, indices: Array, requires_grad: RequiresGrad, size: Pair) -> Result:
    """On arrays: write each value at its index. If an index repeats, the last value wins."""
    y = ops.max_unpool2d(backend, x, indices, size)
    return y, (lambda dy: (ops.max_unpool2d_gradient(backend, dy, indices, size), None)) if requires_grad[0] else None


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: PairLike = 0,
    output_size: tuple[int, int] | None = None,
) -> Tensor:
    """Return images with each value at its index and zeros elsewhere: a partial inverse of ``max_pool2d_with_indices``.

    input, indices: (N, C, H, W) or (C, H, W). output_size defaults to (H - 1) stride - 2 padding + kernel.
    Source: Zeiler & Fergus 2014.

    >>> import gpucnn
    >>> max_unpool2d(gpucnn.tensor([[[5.0]]]), gpucnn.tensor([[[1]]]), 2).tolist()
    [[[0.0, 5.0], [0.0, 0.0]]]
    """
    where = "max_unpool2d"
    x, added = image_batch(input, where)
    check_float(x, where)
    check_tensor(indices, where, "indices")
    if indices.shape != input.shape:
        raise ShapeError.expected(where, "indices", f"the input's shape {input.shape}", indices.shape)
    if indices.dtype.kind not in "iu":
        raise DTypeError.expected(where, "indices", "integers", indices.dtype)
    kernel = pair(kernel_size, where, "kernel_size")
    steps = kernel if stride is None else pair(stride, where, "stride")
    border = pair(padding, where, "padding", least=0)
    H, W = x.shape[2:]
    asked: Any = output_size[-2:] if isinstance(output_size, (tuple, list)) else output_size
    usual = ((H - 1) * steps[0] - 2 * border[0] + kernel[0], (W - 1) * steps[1] - 2 * border[1] + kernel[1])
    size = usual if output_size is None else pair(asked, where, "output_size")
    batched, _ = image_batch(indices, where)
    return unbatch(apply(_max_unpool2d, x, batched, size=size), added)


def lp_pool2d(
    input: Tensor,
    norm_type: float,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: Padding = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Return (sum |x|^p)^(1/p) of each window; p = norm_type > 0; 2 is the Euclidean norm, infinity the maximum.

    The gradient of a window of zeros is 0. Source: Gulcehre et al. 2014; Boureau, Ponce & LeCun 2010.

    >>> import gpucnn
    >>> lp_pool2d(gpucnn.tensor([[[3.0, -4.0]]]), 2, (1, 2)).tolist()
    [[[5.0]]]
    """
    where = "lp_pool2d"
    check_positive(norm_type, where, "norm_type")
    x, added = image_batch(input, where)
    check_float(x, where)
    if math.isinf(norm_type):
        return unbatch(max_pool2d(abs(x), kernel_size, stride, padding, dilation, ceil_mode), added)
    window, _ = pooling_window(where, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    return unbatch(apply(_lp_pool2d, x, window=window, p=float(norm_type)), added)


def _lp_pool2d(backend: Backend, x: Array, requires_grad: RequiresGrad, window: Window, p: float) -> Result:
    """On arrays: dx = dy sign(x) (|x| / y)^(p - 1)."""
    y, kept = ops.lp_pool2d(backend, x, window, p)
    return y, (lambda dy: (ops.lp_pool2d_gradient(backend, dy, x, kept, window, p),)) if requires_grad[0] else None


def centre_weights(kernel: Pair) -> list[list[float]]:
    """Return weights proportional to 1 / (1 + distance from the window's centre) that sum to 1.

    >>> centre_weights((1, 1))
    [[1.0]]
    """
    KH, KW = kernel
    raw = [[1 / (1 + math.hypot(i - (KH - 1) / 2, j - (KW - 1) / 2)) for j in range(KW)] for i in range(KH)]
    total = sum(map(sum, raw))
    return [[weight / total for weight in row] for row in raw]


def centre_pool2d(
    input: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: Padding = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Return each window's mean with weights proportional to 1 / (1 + distance from the centre).

    >>> import gpucnn
    >>> centre_pool2d(gpucnn.tensor([[[2.0, 2.0], [2.0, 2.0]]]), 2).tolist()
    [[[2.0]]]
    """
    where = "centre_pool2d"
    x, added = image_batch(input, where)
    check_float(x, where)
    window, _ = pooling_window(where, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    N, C, H, W = x.shape
    weights = x.like(x.backend.asarray(centre_weights(window.kernel), x.dtype))
    planes = x.reshape(N * C, 1, H, W)
    y = conv2d(planes, weights.reshape(1, 1, *window.kernel), None, window.stride, window.padding, window.dilation)
    return unbatch(y.reshape(N, C, *y.shape[2:]), added)


def _bins(n: int, count: int) -> list[tuple[int, int]]:
    """Split 0..n into ``count`` bins of similar size. They overlap if ``count`` does not divide n, as in PyTorch."""
    return [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]


def adaptive_size(output_size: Any, where: str) -> tuple[int | None, int | None]:
    """Return an int or a pair (None: the input's size) as a pair; ParameterError for other values."""
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if output_size is None or len(wanted) != 2 or not all(w is None or is_count(w, 1) for w in wanted):
        raise ParameterError.expected(
            where, "output_size", "an int or a pair of positive ints or None", shown(output_size)
        )
    rows, columns = (None if w is None else int(w) for w in wanted)
    return rows, columns


def _target(output_size: int | tuple[int | None, int | None], size: Pair, where: str) -> Pair:
    wanted = adaptive_size(output_size, where)
    if min(size) < 1:
        raise ShapeError.expected(where, "input", "at least one pixel", f"{size[0]}x{size[1]}")
    OH, OW = (n if w is None else w for w, n in zip(wanted, size, strict=True))
    return OH, OW


@functools.lru_cache(256)
def _tiles(size: Pair) -> Window:
    """Return windows side by side. They are kept, because making one takes as long as pooling a small image."""
    return Window(size, size)


def adaptive_avg_pool2d(input: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Return the means of output_size bins of similar size: (N, C, H, W) -> (N, C, OH, OW); None keeps an axis.

    >>> import gpucnn
    >>> adaptive_avg_pool2d(gpucnn.tensor([[[1.0, 2.0, 6.0]]]), (1, 1)).tolist()
    [[[3.0]]]
    """
    x, added = image_batch(input, "adaptive_avg_pool2d")
    check_float(x, "adaptive_avg_pool2d")
    H, W = x.shape[2:]
    OH, OW = _target(output_size, (H, W), "adaptive_avg_pool2d")
    if H % OH == 0 and W % OW == 0:
        KH, KW = H // OH, W // OW
        return unbatch(apply(_avg_pool2d, x, window=_tiles((KH, KW)), divisor=float(KH * KW)), added)

    def means(n: int, count: int) -> Tensor:
        rows = [[1 / (last - first) if first <= i < last else 0.0 for i in range(n)] for first, last in _bins(n, count)]
        return x.like(x.backend.asarray(rows, x.dtype))

    return unbatch(means(H, OH) @ x @ means(W, OW).T, added)


def adaptive_max_pool2d(
    input: Tensor, output_size: int | tuple[int | None, int | None], return_indices: bool = False
) -> Any:
    """Return the maxima of output_size bins of similar size: (N, C, H, W) -> (N, C, OH, OW); None keeps an axis.

    With return_indices a pair: the maxima, and their indices as ``max_pool2d_with_indices`` numbers them.

    >>> import gpucnn
    >>> adaptive_max_pool2d(gpucnn.tensor([[[1.0, 2.0, 6.0]]]), (1, 2)).tolist()
    [[[2.0, 6.0]]]
    """
    x, added = image_batch(input, "adaptive_max_pool2d")
    check_float(x, "adaptive_max_pool2d")
    H, W = x.shape[2:]
    OH, OW = _target(output_size, (H, W), "adaptive_max_pool2d")
    rows, columns = _bins(H, OH), _bins(W, OW)
    y = unbatch(apply(_adaptive_max_pool2d, x, rows=rows, columns=columns), added)
    if check_flag(return_indices, "adaptive_max_pool2d", "return_indices"):
        return y, unbatch(apply(_adaptive_max_pool2d_indices, x, rows=rows, columns=columns), added)
    return y


def _adaptive_max_pool2d_indices(
    backend: Backend, x: Array, requires_grad: RequiresGrad, rows: list[tuple[int, int]], columns: list[tuple[int, int]]
) -> Result:
    """On arrays: where in its channel each maximum is."""
    _, indices = ops.bin_maxima(backend, x, rows, columns)
    return ops.bin_indices(backend, indices, x.shape, rows, columns), None


def _adaptive_max_pool2d(
    backend: Backend, x: Array, requires_grad: RequiresGrad, rows: list[tuple[int, int]], columns: list[tuple[int, int]]
) -> Result:
    """On arrays. Each bin is a window; keeps the argmax of each."""
    y, indices = ops.bin_maxima(backend, x, rows, columns)
    shape = x.shape
    return y, (
        (lambda dy: (ops.bin_maxima_gradient(backend, dy, indices, shape, rows, columns),))
        if requires_grad[0]
        else None
    )


def global_avg_pool2d(input: Tensor) -> Tensor:
    """Return the mean of each channel: (N, C, H, W) -> (N, C, 1, 1). Source: Lin, Chen & Yan 2014.

    >>> import gpucnn
    >>> global_avg_pool2d(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[2.0]]]
    """
    return adaptive_avg_pool2d(input, 1)


def global_max_pool2d(input: Tensor) -> Tensor:
    """Return the maximum of each channel: (N, C, H, W) -> (N, C, 1, 1).

    >>> import gpucnn
    >>> global_max_pool2d(gpucnn.tensor([[[1.0, 3.0]]])).tolist()
    [[[3.0]]]
    """
    y: Tensor = adaptive_max_pool2d(input, 1)
    return y
