"""Convolution (cross-correlation, as in every framework) by im2col and one matrix product.

Legend, here and in the backends: N images, C channels, H x W pixels, F filters, KH x KW kernel, OH x OW output pixels.
"""

from __future__ import annotations

from collections.abc import Callable

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, Window, ops
from gpucnn.checks import check_choice, is_count
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.arguments import (
    Padding,
    PairLike,
    check_float,
    check_matches,
    check_tensor,
    image_batch,
    read_window,
    unbatch,
)
from gpucnn.functional.conv_loops import loop_convolution


def convolution(
    backend: Backend,
    x: Array,
    w: Array,
    b: Array | None,
    needs: Needs,
    window: Window,
    groups: int,
    kernels: tuple[Callable[..., Array], Callable[..., Array], Callable[..., tuple[Array, Array]]] = (
        ops.conv2d,
        ops.conv2d_input_gradient,
        ops.conv2d_weight_gradient,
    ),
) -> Result:
    """Array level: y = x * w + b. Keeps x for the weight gradient and w for the input gradient, no columns.

    kernels: the operations that do it.
    """
    forward, input_gradient, weight_gradient = kernels
    y = forward(backend, x, w, b, window, groups)
    if not any(needs):
        return y, None
    x_shape, w_shape = x.shape, w.shape
    needs_parameters = needs[1] or needs[2]
    kept_x = x if needs_parameters else None
    kept_w = w if needs[0] else None

    def backward(dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        dx = input_gradient(backend, dy, kept_w, x_shape, window, groups) if needs[0] else None
        if not needs_parameters:
            return dx, None, None
        return (dx, *weight_gradient(backend, kept_x, dy, w_shape, window, groups))

    return y, backward


REFERENCES = ops.conv2d.reference, ops.conv2d_input_gradient.reference, ops.conv2d_weight_gradient.reference


def column_convolution(
    backend: Backend, x: Array, w: Array, b: Array | None, needs: Needs, window: Window, groups: int
) -> Result:
    """Array level: the reference, by one matrix of columns and one product."""
    return convolution(backend, x, w, b, needs, window, groups, REFERENCES)


IMPLEMENTATIONS: dict[str, Callable[..., Result]] = {
    "auto": convolution,
    "im2col": column_convolution,
    "loops": loop_convolution,
}
"""Convolutions by name: the backend's fastest, the reference with one matrix of columns, the definition as loops."""


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    groups: int = 1,
    exact: bool = False,
    implementation: str = "auto",
) -> Tensor:
    """Return the cross-correlation of images with filters.

    input: (N, C, H, W) or one (C, H, W) image; weight: (F, C/groups, KH, KW); bias: (F,), or (F, OH, OW) for one per
    position; all of one floating dtype.
    Output: (N, F, OH, OW) with OH = floor((H + top + bottom - dilation (KH - 1) - 1) / stride) + 1, OW alike.
    padding: an int, a pair, four sides (top, bottom, left, right), "valid", "same" (ceil(n / stride) pixels, the odd row
    and column at the bottom and right) or "full". exact=True refuses a size that the stride does not divide.
    implementation: "auto", the device's fastest; "im2col", the plain product with the matrix of columns; "loops".
    Raises ShapeError, DTypeError, ParameterError or MixedDeviceError with what does not fit.
    Source: Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document processing".

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]]])
    >>> w = gpucnn.tensor([[[[0.0, 1], [2, 3]]]])
    >>> conv2d(x, w).tolist()
    [[[[19.0, 25.0], [37.0, 43.0]]]]
    """
    x, single = image_batch(input, "conv2d")
    check_filters(x, weight, bias, groups)
    check_implementation(implementation, "conv2d")
    chosen = IMPLEMENTATIONS[implementation]
    window = read_window("conv2d", x.shape[2:], weight.shape[2:], stride, padding, dilation, exact)  # type: ignore[arg-type]
    if bias is not None and bias.ndim == 3:
        _check_position_bias(bias, (weight.shape[0], *window.output_size(x.shape[2], x.shape[3])))
        return unbatch(apply(chosen, x, weight, None, window=window, groups=groups) + bias, single)
    return unbatch(apply(chosen, x, weight, bias, window=window, groups=groups), single)


def check_implementation(name: str, where: str) -> None:
    """ParameterError unless there is a convolution of this name."""
    check_choice(name, where, "implementation", IMPLEMENTATIONS)


def _check_position_bias(bias: Tensor, shape: tuple[int, int, int]) -> None:
    if bias.shape != shape:
        raise ShapeError.expected("conv2d", "bias", f"shape {shape[:1]}, or {shape} for one per position", bias.shape)


def check_filters(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> None:
    """Check that images, filters, bias and groups of a convolution fit together."""
    check_tensor(weight, "conv2d", "weight")
    if weight.ndim != 4:
        raise ShapeError.expected("conv2d", "weight", "(F, C/groups, KH, KW)", f"shape {weight.shape}")
    F, C = weight.shape[0], x.shape[1]
    if not is_count(groups, 1) or F % groups:
        raise ParameterError.expected("conv2d", "groups", f"a positive divisor of the {F} filters", repr(groups))
    if weight.shape[1] * groups != C:
        raise ShapeError.expected(
            "conv2d",
            "input",
            f"{weight.shape[1] * groups} channels (weight {weight.shape}, groups {groups})",
            f"{C} (input {x.shape})",
            "put channels second: (N, C, H, W)" if weight.shape[1] * groups == x.shape[3] else "",
        )
    if bias is not None:
        check_tensor(bias, "conv2d", "bias")
    if bias is not None and bias.shape != (F,) and bias.ndim != 3:
        raise ShapeError.expected(
            "conv2d", "bias", f"shape ({F},)", bias.shape, "or pass (F, OH, OW), one per position"
        )
    check_float(x, "conv2d")
    check_matches(x, weight, "conv2d", "weight")
    check_matches(x, bias, "conv2d", "bias")


def columns_of(backend: Backend, x: Array, needs: Needs, window: Window) -> Result:
    shape = x.shape
    return backend.im2col(x, window), (lambda dy: (backend.col2im(dy, shape, window),)) if needs[0] else None


def image_of(
    backend: Backend, columns: Array, needs: Needs, shape: tuple[int, int, int, int], window: Window
) -> Result:
    return backend.col2im(columns, shape, window), (lambda dy: (backend.im2col(dy, window),)) if needs[0] else None


def im2col(
    x: Tensor,
    kernel_size: PairLike,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    exact: bool = False,
) -> Tensor:
    """Return the (N*OH*OW, C*KH*KW) matrix of all windows of ``x`` (N, C, H, W), columns ordered channel, row, column.

    Any dtype. Raises ShapeError where no window fits (or, with exact=True, where the stride leaves pixels over).

    >>> import gpucnn
    >>> im2col(gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5]]]]), kernel_size=2).tolist()
    [[0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 4.0, 5.0]]
    """
    x, _ = image_batch(x, "im2col")
    window = read_window("im2col", x.shape[2:], kernel_size, stride, padding, dilation, exact)  # type: ignore[arg-type]
    return apply(columns_of, x, window=window)


def col2im(
    cols: Tensor,
    input_shape: tuple[int, int, int, int],
    kernel_size: PairLike,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
) -> Tensor:
    """Return the (N, C, H, W) image whose pixels are the sums of the column elements that ``im2col`` copied from them.

    The adjoint of ``im2col``: sum(im2col(x) * c) == sum(x * col2im(c)). Raises ShapeError where ``cols`` is not
    (N*OH*OW, C*KH*KW).

    >>> import gpucnn
    >>> col2im(gpucnn.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1]]), (1, 1, 2, 3), kernel_size=2).tolist()
    [[[[1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]]]
    """
    check_tensor(cols, "col2im", "cols")
    if (
        not isinstance(input_shape, (tuple, list))
        or len(input_shape) != 4
        or not all(is_count(n, 0) for n in input_shape)
    ):
        raise ShapeError.expected("col2im", "input_shape", "(N, C, H, W)", repr(input_shape))
    N, C, H, W = input_shape
    window = read_window("col2im", (H, W), kernel_size, stride, padding, dilation)
    OH, OW = window.output_size(H, W)
    wanted = (N * OH * OW, C * window.kernel[0] * window.kernel[1])
    if cols.shape != wanted:
        raise ShapeError.expected("col2im", "cols", f"{wanted} for input {tuple(input_shape)}", cols.shape)
    return apply(image_of, cols, shape=(N, C, H, W), window=window)
