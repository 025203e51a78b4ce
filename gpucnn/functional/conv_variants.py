"""Relatives of ``conv2d``: transposed, one-dimensional, on a plain matrix, and written as loops."""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, Window
from gpucnn.backend.geometry import Pair
from gpucnn.backend.ops.reduction import sum_of as total
from gpucnn.checks import is_count
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.arguments import (
    Padding,
    PairLike,
    check_float,
    check_matches,
    check_optional,
    check_tensor,
    image_batch,
    pair,
    unbatch,
)
from gpucnn.functional.conv import conv2d
from gpucnn.functional.pad import pad2d

Shape = tuple[int, int, int, int]


def transposed_convolution(
    backend: Backend, x: Array, w: Array, b: Array | None, needs: Needs, window: Window, groups: int, shape: Shape
) -> Result:
    """Array level: the input gradient of the convolution that maps ``shape`` to x's shape; its own gradients in turn."""
    y = backend.conv2d_input_gradient(x, w, shape, window, groups)
    if b is not None:
        y = y + b[:, None, None]
    if not any(needs):
        return y, None
    w_shape = w.shape

    def backward(dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        return (
            backend.conv2d(dy, w, None, window, groups) if needs[0] else None,
            backend.conv2d_weight_gradient(dy, x, w_shape, window, groups)[0] if needs[1] else None,
            total(dy, (0, 2, 3), keepdims=False) if needs[2] else None,
        )

    return y, backward


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PairLike = 1,
    padding: PairLike = 0,
    output_padding: PairLike = 0,
    groups: int = 1,
    dilation: PairLike = 1,
) -> Tensor:
    """Return the transposed convolution: every pixel adds its filter, times its value, to the window it stands for.

    input: (N, C, H, W) or one (C, H, W) image; weight: (C, F/groups, KH, KW); bias: (F,). Output: (N, F, OH, OW) with
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1. output_padding is less than stride or
    dilation. Raises ShapeError, DTypeError or ParameterError. Source: Dumoulin & Visin 2016, "A guide to convolution
    arithmetic", chapter 4.

    >>> import gpucnn
    >>> conv_transpose2d(gpucnn.tensor([[[[1.0, 2.0]]]]), gpucnn.tensor([[[[1.0, 1.0]]]])).tolist()
    [[[[1.0, 3.0, 2.0]]]]
    """
    where = "conv_transpose2d"
    x, single = image_batch(input, where)
    check_tensor(weight, where, "weight")
    if weight.ndim != 4:
        raise ShapeError.expected(where, "weight", "(C, F/groups, KH, KW)", f"shape {weight.shape}")
    if not is_count(groups, 1) or weight.shape[0] % groups:
        raise ParameterError.expected(where, "groups", f"a divisor of the {weight.shape[0]} channels", repr(groups))
    if x.shape[1] != weight.shape[0]:
        raise ShapeError.expected(where, "input", f"{weight.shape[0]} channels (weight {weight.shape})", x.shape[1])
    F = weight.shape[1] * groups
    check_optional(bias, where, "bias")
    if bias is not None and bias.shape != (F,):
        raise ShapeError.expected(where, "bias", f"shape ({F},)", bias.shape)
    check_float(x, where)
    check_matches(x, weight, where, "weight")
    check_matches(x, bias, where, "bias")
    (PH, PW), (SH, SW) = pair(padding, where, "padding", least=0), pair(stride, where, "stride")
    (XH, XW), (DH, DW) = pair(output_padding, where, "output_padding", least=0), pair(dilation, where, "dilation")
    check_output_padding((XH, XW), (SH, SW), (DH, DW), where)
    N, _, H, W = x.shape
    window = Window((weight.shape[2], weight.shape[3]), (SH, SW), (PH, PH, PW, PW), (DH, DW))
    OH = (H - 1) * SH - 2 * PH + window.extent[0] + XH
    OW = (W - 1) * SW - 2 * PW + window.extent[1] + XW
    if OH < 1 or OW < 1:
        raise ShapeError.expected(where, "output", "at least one pixel", f"{OH}x{OW}", "pad less")
    if XH < SH and XW < SW:
        shape = (N, F, OH, OW)
        return unbatch(
            apply(transposed_convolution, x, weight, bias, window=window, groups=groups, shape=shape), single
        )
    # Not even a further step of the window would reach the last rows or columns: cut out of all that is reached, add zeros.
    window = window.with_padding((0, 0, 0, 0))
    shape = (N, F, (H - 1) * SH + window.extent[0], (W - 1) * SW + window.extent[1])
    y = apply(transposed_convolution, x, weight, None, window=window, groups=groups, shape=shape)
    y = y[:, :, PH : PH + OH, PW : PW + OW]
    y = pad2d(y, (0, OH - y.shape[2], 0, OW - y.shape[3]))
    return unbatch(y if bias is None else y + bias.reshape(F, 1, 1), single)


def check_output_padding(output_padding: Pair, stride: Pair, dilation: Pair, where: str) -> None:
    if any(max(s, d) <= extra for extra, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise ParameterError.expected(where, "output_padding", "less than stride or dilation", repr(output_padding))


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Return the cross-correlation of sequences (N, C, L), or one (C, L), with filters (F, C/groups, K): (N, F, OL).

    Sizes, padding and errors are those of ``conv2d`` for images of one row.

    >>> import gpucnn
    >>> conv1d(gpucnn.tensor([[1.0, 2.0, 4.0]]), gpucnn.tensor([[[-1.0, 1.0]]])).tolist()
    [[1.0, 2.0]]
    """
    check_tensor(input, "conv1d")
    check_tensor(weight, "conv1d", "weight")
    if input.ndim not in (2, 3) or weight.ndim != 3:
        raise ShapeError.expected(
            "conv1d",
            "shapes",
            "input (N, C, L) or (C, L) and weight (F, C/groups, K)",
            f"{input.shape} and {weight.shape}",
        )
    x = input.reshape(*input.shape[:-1], 1, input.shape[-1])
    w = weight.reshape(*weight.shape[:-1], 1, weight.shape[-1])
    sides = padding if isinstance(padding, str) else (0, padding)
    y = conv2d(x, w, bias, (1, stride), sides, (1, dilation), groups)
    return y.reshape(*y.shape[:-2], y.shape[-1])


def corr2d(input: Tensor, kernel: Tensor, stride: PairLike = 1, padding: Padding = 0) -> Tensor:
    """Return the cross-correlation of a matrix (H, W) with a matrix (KH, KW): (OH, OW).

    >>> import gpucnn
    >>> corr2d(gpucnn.tensor([[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]), gpucnn.tensor([[0.0, 1], [2, 3]])).tolist()
    [[19.0, 25.0], [37.0, 43.0]]
    """
    check_tensor(input, "corr2d")
    check_tensor(kernel, "corr2d", "kernel")
    if input.ndim != 2 or kernel.ndim != 2:
        raise ShapeError.expected("corr2d", "shapes", "(H, W) and (KH, KW)", f"{input.shape} and {kernel.shape}")
    y = conv2d(input.reshape(1, 1, *input.shape), kernel.reshape(1, 1, *kernel.shape), None, stride, padding)
    return y.reshape(*y.shape[2:])


def conv2d_loops(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    groups: int = 1,
) -> Tensor:
    """Return what ``conv2d`` returns, by the definition: one loop for each dimension. To read, and to check others by.

    The same as ``conv2d(..., implementation="loops")``; ``functional.conv_loops`` has the loops. Slow.

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]]])
    >>> conv2d_loops(x, gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).tolist()
    [[[[19.0, 25.0], [37.0, 43.0]]]]
    """
    return conv2d(input, weight, bias, stride, padding, dilation, groups, implementation="loops")
