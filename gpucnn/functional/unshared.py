"""Convolution with filters of its own at each position, true convolution, and sizes of outputs."""

from __future__ import annotations

from gpucnn.autograd import Tensor
from gpucnn.backend.geometry import Pair
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import (
    Padding,
    PairLike,
    check_float,
    check_matches,
    check_tensor,
    image_batch,
    pair,
    read_window,
    unbatch,
)
from gpucnn.functional.conv import conv2d, im2col


def output_size(
    size: PairLike, kernel_size: PairLike, stride: PairLike = 1, padding: Padding = 0, dilation: PairLike = 1
) -> Pair:
    """Return (rows, columns) after a convolution or pooling: floor((n + padding - (dilation (k - 1) + 1)) / stride) + 1.

    size: (height, width), or one number for both. padding: an int, a pair, four sides or a name, as in ``conv2d``. Raises
    ParameterError, and ShapeError for a window that does not fit.

    >>> output_size((8, 8), (3, 5), stride=(3, 4), padding=(0, 1))
    (2, 2)
    """
    H, W = pair(size, "output_size", "size")
    rows, columns = read_window("output_size", (H, W), kernel_size, stride, padding, dilation).output_size(H, W)
    return rows, columns


def convolve2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: PairLike = 1, padding: Padding = 0
) -> Tensor:
    """Return the mathematical convolution, with flipped filters: ``conv2d`` with weight[:, :, ::-1, ::-1].

    input: (N, C, H, W) or (C, H, W); weight: (F, C, KH, KW). It commutes, x * w = w * x, where padding is "full".

    >>> import gpucnn
    >>> convolve2d(gpucnn.tensor([[[1.0, 2.0]]]), gpucnn.tensor([[[[3.0, 5.0]]]]), padding="full").tolist()
    [[[3.0, 11.0, 10.0]]]
    """
    check_tensor(weight, "convolve2d", "weight")
    if weight.ndim != 4:
        raise ShapeError.expected("convolve2d", "weight", "(F, C, KH, KW)", weight.shape)
    return conv2d(input, weight[:, :, ::-1, ::-1], bias, stride, padding)


def locally_connected2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
) -> Tensor:
    """Return y[n, f, i, j] = sum over c, a, b of x[n, c, i s + a, j s + b] weight[i, j, f, c, a, b]: filters are not shared.

    input: (N, C, H, W) or one (C, H, W); weight: (OH, OW, F, C, KH, KW); bias: (F, OH, OW). Raises ShapeError, DTypeError,
    ParameterError. Source: Goodfellow, Bengio & Courville 2016, section 9.5.

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[1.0, 2.0, 4.0]]])
    >>> locally_connected2d(x, gpucnn.tensor([1.0, 0.0, 0.0, 10.0]).reshape(1, 2, 1, 1, 1, 2)).tolist()
    [[[1.0, 40.0]]]
    """
    where = "locally_connected2d"
    x, added = image_batch(input, where)
    check_float(x, where)
    check_tensor(weight, where, "weight")
    check_matches(x, weight, where, "weight")
    if weight.ndim != 6 or weight.shape[3] != x.shape[1]:
        raise ShapeError.expected(where, "weight", f"(OH, OW, F, {x.shape[1]}, KH, KW)", weight.shape)
    OH, OW, F, C, KH, KW = weight.shape
    window = read_window(where, (x.shape[2], x.shape[3]), (KH, KW), stride, padding, dilation)
    if window.output_size(*x.shape[2:]) != (OH, OW):
        raise ShapeError.expected(
            where, "weight", f"filters for {window.output_size(*x.shape[2:])} positions", (OH, OW)
        )
    columns = im2col(x, (KH, KW), stride, padding, dilation).reshape(x.shape[0], OH * OW, C * KH * KW)
    filters = weight.reshape(OH * OW, F, C * KH * KW).transpose(1, 2)
    y = (columns.permute(1, 0, 2) @ filters).permute(1, 2, 0).reshape(x.shape[0], F, OH, OW)
    if bias is not None:
        check_tensor(bias, where, "bias")
        check_matches(x, bias, where, "bias")
        if bias.shape != (F, OH, OW):
            raise ShapeError.expected(where, "bias", f"shape {(F, OH, OW)}", bias.shape)
        y = y + bias
    return unbatch(y, min(added, 1))
