"""Further pooling: by norm, by distance from the centre, to a given size, over the whole image; and unpooling."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, Window
from gpucnn.backend.geometry import Pair
from gpucnn.checks import check_positive, is_count, shown
from gpucnn.errors import DTypeError, ParameterError, ShapeError
from gpucnn.functional.arguments import Padding, PairLike, check_float, check_tensor, image_batch, pair, unbatch
from gpucnn.functional.conv import conv2d
from gpucnn.functional.pool import average, max_pool2d, pooling_window


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: Padding = 0,
    dilation: PairLike = 1,
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return ``max_pool2d`` and for each maximum its place row * W + column in its image's channel, int64.

    >>> import gpucnn
    >>> y, place = max_pool2d_with_indices(gpucnn.tensor([[[1.0, 5.0], [2.0, 3.0]]]), 2)
    >>> y.tolist(), place.tolist()
    ([[[5.0]]], [[[1]]])
    """
    y = max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    x, single = image_batch(input, "max_pool2d")
    window, _ = pooling_window("max_pool2d", x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    xp, backend = x.backend.xp, x.backend
    with backend.active():
        _, place = backend.max_pool2d(x.array, window)
        OH, OW = window.output_size(*x.shape[2:])
        place = xp.asarray(place).astype(xp.int64)
        rows = xp.arange(OH).reshape(OH, 1) * window.stride[0] - window.padding[0]
        columns = xp.arange(OW) * window.stride[1] - window.padding[2]
        row = rows + place // window.kernel[1] * window.dilation[0]
        column = columns + place % window.kernel[1] * window.dilation[1]
        indices = x.like(row * x.shape[3] + column)
    return y, unbatch(indices, single)


def scattered(backend: Backend, x: Array, indices: Array, needs: Needs, size: Pair) -> Result:
    """Array level: each value goes to its place; of several for one place the last wins."""
    N, C, H, W = x.shape
    xp, pixels = backend.xp, size[0] * size[1]
    plane = xp.arange(N * C).reshape(N, C, 1, 1) * pixels
    flat = (plane + indices).reshape(-1)
    y = xp.zeros(N * C * pixels, x.dtype)
    y[flat] = x.reshape(-1)
    result = y.reshape(N, C, *size)
    return result, (lambda dy: (dy.reshape(-1)[flat].reshape(N, C, H, W), None)) if needs[0] else None


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: PairLike,
    stride: PairLike | None = None,
    padding: PairLike = 0,
    output_size: tuple[int, int] | None = None,
) -> Tensor:
    """Return images with each value at the place its index says and zeros elsewhere: undoes ``max_pool2d_with_indices``.

    input, indices: (N, C, H, W) or (C, H, W). output_size is (H - 1) stride - 2 padding + kernel unless it is given.
    Source: Zeiler & Fergus 2014.

    >>> import gpucnn
    >>> max_unpool2d(gpucnn.tensor([[[5.0]]]), gpucnn.tensor([[[1]]]), 2).tolist()
    [[[0.0, 5.0], [0.0, 0.0]]]
    """
    where = "max_unpool2d"
    x, single = image_batch(input, where)
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
    places, _ = image_batch(indices, where)
    return unbatch(apply(scattered, x, places, size=size), single)


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
    x, single = image_batch(input, where)
    check_float(x, where)
    if math.isinf(norm_type):
        return unbatch(max_pool2d(abs(x), kernel_size, stride, padding, dilation, ceil_mode), single)
    window, _ = pooling_window(where, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    return unbatch(apply(norm_of_windows, x, window=window, p=float(norm_type)), single)


def norm_of_windows(backend: Backend, x: Array, needs: Needs, window: Window, p: float) -> Result:
    """Array level: dx = dy sign(x) (|x| / y)^(p - 1). Scaled by the largest value, so that no power overflows."""
    xp = backend.xp
    size = abs(x)
    largest = size.max() if x.size else xp.ones((), x.dtype)
    scale = xp.where(largest > 0, largest, xp.ones((), x.dtype))
    powers = (size / scale) ** p
    total = backend.avg_pool2d(powers, window, 1.0)
    y = total ** (1 / p) * scale
    if not needs[0]:
        return y, None
    shape = x.shape

    def backward(dy: Array) -> tuple[Array]:
        positive = xp.where(total > 0, total, xp.ones((), x.dtype))
        share = xp.where(total > 0, dy * positive ** (1 / p - 1), xp.zeros((), x.dtype))
        spread = backend.avg_pool2d_gradient(share, shape, window, 1.0)
        safe = xp.where(size > 0, size / scale, xp.ones((), x.dtype))
        return (xp.where(size > 0, safe ** (p - 1), xp.zeros((), x.dtype)) * xp.sign(x) * spread,)

    return y, backward


def centre_weights(kernel: Pair) -> list[list[float]]:
    """Return weights that fall with the distance from the window's centre, 1 / (1 + distance), and sum to 1.

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
    """Return each window's mean, weighted by 1 / (1 + distance from the centre), the weights summing to 1.

    >>> import gpucnn
    >>> centre_pool2d(gpucnn.tensor([[[2.0, 2.0], [2.0, 2.0]]]), 2).tolist()
    [[[2.0]]]
    """
    where = "centre_pool2d"
    x, single = image_batch(input, where)
    check_float(x, where)
    window, _ = pooling_window(where, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)  # type: ignore[arg-type]
    N, C, H, W = x.shape
    weights = x.like(x.backend.asarray(centre_weights(window.kernel), x.dtype))
    planes = x.reshape(N * C, 1, H, W)
    y = conv2d(planes, weights.reshape(1, 1, *window.kernel), None, window.stride, window.padding, window.dilation)
    return unbatch(y.reshape(N, C, *y.shape[2:]), single)


def _bins(n: int, count: int) -> list[tuple[int, int]]:
    """Cut 0..n into ``count`` bins of like size, which overlap where n does not divide, as PyTorch does."""
    return [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]


def adaptive_size(output_size: Any, where: str) -> tuple[int | None, int | None]:
    """Return an int or two (None: the input's) as a pair; ParameterError for anything else."""
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


def adaptive_avg_pool2d(input: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Return the means of output_size bins of like size: (N, C, H, W) -> (N, C, OH, OW); None keeps an axis.

    >>> import gpucnn
    >>> adaptive_avg_pool2d(gpucnn.tensor([[[1.0, 2.0, 6.0]]]), (1, 1)).tolist()
    [[[3.0]]]
    """
    x, single = image_batch(input, "adaptive_avg_pool2d")
    check_float(x, "adaptive_avg_pool2d")
    H, W = x.shape[2:]
    OH, OW = _target(output_size, (H, W), "adaptive_avg_pool2d")
    if H % OH == 0 and W % OW == 0:
        KH, KW = H // OH, W // OW
        return unbatch(apply(average, x, window=Window((KH, KW), (KH, KW)), divisor=float(KH * KW)), single)

    def means(n: int, count: int) -> Tensor:
        rows = [[1 / (last - first) if first <= i < last else 0.0 for i in range(n)] for first, last in _bins(n, count)]
        return x.like(x.backend.asarray(rows, x.dtype))

    return unbatch(means(H, OH) @ x @ means(W, OW).T, single)


def adaptive_max_pool2d(input: Tensor, output_size: int | tuple[int | None, int | None]) -> Tensor:
    """Return the maxima of output_size bins of like size: (N, C, H, W) -> (N, C, OH, OW); None keeps an axis.

    >>> import gpucnn
    >>> adaptive_max_pool2d(gpucnn.tensor([[[1.0, 2.0, 6.0]]]), (1, 2)).tolist()
    [[[2.0, 6.0]]]
    """
    x, single = image_batch(input, "adaptive_max_pool2d")
    check_float(x, "adaptive_max_pool2d")
    H, W = x.shape[2:]
    OH, OW = _target(output_size, (H, W), "adaptive_max_pool2d")
    return unbatch(apply(maxima_of_bins, x, rows=_bins(H, OH), columns=_bins(W, OW)), single)


def maxima_of_bins(
    backend: Backend, x: Array, needs: Needs, rows: list[tuple[int, int]], columns: list[tuple[int, int]]
) -> Result:
    """Array level: each bin is a window of its own; keeps the place of its first maximum."""
    N, C, _, _ = x.shape
    xp, dtype, shape = backend.xp, x.dtype, x.shape
    y = xp.zeros((N, C, len(rows), len(columns)), dtype)
    chosen = {}
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            pixels = x[:, :, top:bottom, left:right].reshape(N, C, (bottom - top) * (right - left))
            place = pixels.argmax(-1)
            y[:, :, i, j] = xp.take_along_axis(pixels, place[..., None], -1)[..., 0]
            chosen[i, j] = place
    if not needs[0]:
        return y, None

    def backward(dy: Array) -> tuple[Array]:
        dx = xp.zeros(shape, dtype)
        for (i, j), place in chosen.items():
            (top, bottom), (left, right) = rows[i], columns[j]
            numbers = xp.arange((bottom - top) * (right - left))
            won = (place[..., None] == numbers) * dy[:, :, i, j, None]
            dx[:, :, top:bottom, left:right] += won.reshape(N, C, bottom - top, right - left).astype(dtype)
        return (dx,)

    return y, backward


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
    return adaptive_max_pool2d(input, 1)
