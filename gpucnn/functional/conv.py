"""Convolution (cross-correlation, as in every framework) by im2col and one GEMM.

Dimensions, here and in ``backend``: N images, C channels, H x W pixels, F filters, KH x KW kernel, OH x OW output pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import RequiresGrad, Result
from gpucnn.backend import Array, Backend, Window, ops
from gpucnn.backend.geometry import Pair
from gpucnn.checks import check_choice, is_count, shown
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.functional.arguments import (
    Padding,
    PairLike,
    Single,
    check_float,
    check_matches,
    check_optional,
    check_tensor,
    image_batch,
    image_row,
    pair,
    read_window,
    remembered,
    row_padding,
    single,
    unbatch,
)
from gpucnn.functional.padding import pad2d


def _conv2d(
    backend: Backend,
    x: Array,
    w: Array,
    b: Array | None,
    requires_grad: RequiresGrad,
    window: Window,
    groups: int,
    kernels: tuple[Callable[..., Array], Callable[..., Array], Callable[..., tuple[Array, Array]]] = (
        ops.conv2d,
        ops.conv2d_input_gradient,
        ops.conv2d_weight_gradient,
    ),
) -> Result:
    """On arrays: y = x * w + b. Keeps x for the weight gradient and w for the input gradient, but no columns.

    kernels: the operations for forward, input gradient and weight gradient.
    """
    forward, input_gradient, weight_gradient = kernels
    y = forward(backend, x, w, b, window, groups)
    if not any(requires_grad):
        return y, None
    x_shape, w_shape = x.shape, w.shape
    needs_parameters = requires_grad[1] or requires_grad[2]
    kept_x = x if needs_parameters else None
    kept_w = w if requires_grad[0] else None

    def backward(dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        dx = input_gradient(backend, dy, kept_w, x_shape, window, groups) if requires_grad[0] else None
        if not needs_parameters:
            return dx, None, None
        return (dx, *weight_gradient(backend, kept_x, dy, w_shape, window, groups))

    return y, backward


REFERENCES = ops.conv2d.reference, ops.conv2d_input_gradient.reference, ops.conv2d_weight_gradient.reference


def _conv2d_im2col(
    backend: Backend, x: Array, w: Array, b: Array | None, requires_grad: RequiresGrad, window: Window, groups: int
) -> Result:
    """On arrays: the reference, by im2col and one GEMM."""
    return _conv2d(backend, x, w, b, requires_grad, window, groups, REFERENCES)


Shape = tuple[int, ...]
Index = tuple[int, ...]


def _conv2d_loops(
    backend: Backend, x: Array, w: Array, b: Array | None, requires_grad: RequiresGrad, window: Window, groups: int
) -> Result:
    """On arrays: y[n, f, i, j] = b[f] + sum of w[f, c, kh, kw] x[n, c', i stride + kh dilation - top, ...].

    c' runs over the channels of f's group, and pixels outside the image are 0. Each product is one iteration of the loop, in
    forward and in backward. It computes with Python's floats on the host, whatever the device.
    """
    images, filters = backend.tolist(x), backend.tolist(w)
    N, F, (OH, OW) = x.shape[0], w.shape[0], window.output_size(*x.shape[2:])
    biases = [0.0] * F if b is None else backend.tolist(b)
    y = [[[[bias] * OW for _ in range(OH)] for bias in biases] for _ in range(N)]
    for (n, f, i, j), (channel, row, column), (c, kh, kw) in products(x.shape, w.shape, window, groups):
        y[n][f][i][j] += filters[f][c][kh][kw] * images[n][channel][row][column]
    result = ops.reshape(backend, backend.asarray(y, x.dtype), (N, F, OH, OW))
    if not any(requires_grad):
        return result, None
    x_shape, w_shape, dtype = x.shape, w.shape, x.dtype

    def backward(dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        gradients = backend.tolist(dy)
        dx, dw = _zeros(x_shape), _zeros(w_shape)
        for (n, f, i, j), (channel, row, column), (c, kh, kw) in products(x_shape, w_shape, window, groups):
            dx[n][channel][row][column] += filters[f][c][kh][kw] * gradients[n][f][i][j]
            dw[f][c][kh][kw] += images[n][channel][row][column] * gradients[n][f][i][j]
        return (
            ops.reshape(backend, backend.asarray(dx, dtype), x_shape) if requires_grad[0] else None,
            ops.reshape(backend, backend.asarray(dw, dtype), w_shape) if requires_grad[1] else None,
            ops.sum(backend, dy, (0, 2, 3)) if requires_grad[2] else None,
        )

    return result, backward


def products(x_shape: Shape, w_shape: Shape, window: Window, groups: int) -> Iterator[tuple[Index, Index, Index]]:
    """Yield, for each product of a convolution, the indices of its output, its pixel and its filter element."""
    (N, _, H, W), (F, CG, KH, KW) = x_shape, w_shape
    OH, OW = window.output_size(H, W)
    (SH, SW), (DH, DW), (top, _, left, _) = window.stride, window.dilation, window.padding
    for n, f, i, j in itertools.product(range(N), range(F), range(OH), range(OW)):
        for c, kh, kw in itertools.product(range(CG), range(KH), range(KW)):
            row, column = i * SH + kh * DH - top, j * SW + kw * DW - left
            if 0 <= row < H and 0 <= column < W:
                yield (n, f, i, j), (f // (F // groups) * CG + c, row, column), (c, kh, kw)


def _zeros(shape: Shape) -> Any:
    return 0.0 if not shape else [_zeros(shape[1:]) for _ in range(shape[0])]


IMPLEMENTATIONS: dict[str, Callable[..., Result]] = {
    "auto": _conv2d,
    "im2col": _conv2d_im2col,
    "loops": _conv2d_loops,
}
"""Convolutions by name: the device's fastest, the im2col reference, and the definition as loops."""


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

    input: (N, C, H, W), one (C, H, W) image, or a matrix (H, W), which is an image of one channel; weight: (F, C/groups,
    KH, KW); bias: (F,), or (F, OH, OW) for one per position; all of one floating dtype.
    Output: (N, F, OH, OW) with OH = floor((H + top + bottom - dilation (KH - 1) - 1) / stride) + 1; OW likewise.
    padding: an int, a pair, four sides (top, bottom, left, right), "valid", "same" (ceil(n / stride) pixels, the odd row
    and column at the bottom and right) or "full". exact=True raises if the stride does not divide the size.
    implementation: "auto", the device's fastest; "im2col", one GEMM with the im2col matrix; "loops".
    Raises ShapeError, DTypeError, ParameterError or MixedDeviceError.
    Source: Chellapilla, Puri & Simard 2006, "High performance convolutional neural networks for document processing".

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]]])
    >>> w = gpucnn.tensor([[[[0.0, 1], [2, 3]]]])
    >>> conv2d(x, w).tolist()
    [[[[19.0, 25.0], [37.0, 43.0]]]]
    """
    x, added = image_batch(input, "conv2d")
    return unbatch(
        _convolve("conv2d", x, weight, bias, stride, padding, dilation, groups, exact, implementation), min(added, 1)
    )


def _convolve(
    where: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: PairLike,
    padding: Padding,
    dilation: PairLike,
    groups: int,
    exact: bool = False,
    implementation: str = "auto",
) -> Tensor:
    """Convolve a batch (N, C, H, W). ``where`` is the function name in errors."""
    window = filter_window(where, x, weight, bias, stride, padding, dilation, groups, exact, implementation)
    chosen = IMPLEMENTATIONS[implementation]
    if bias is not None and bias.ndim == 3:
        _check_position_bias(where, bias, (weight.shape[0], *window.output_size(x.shape[2], x.shape[3])))
        return apply(chosen, x, weight, None, window=window, groups=groups) + bias
    return apply(chosen, x, weight, bias, window=window, groups=groups)


def check_implementation(name: str, where: str) -> None:
    """Raise ParameterError unless there is an implementation of this name."""
    check_choice(name, where, "implementation", IMPLEMENTATIONS)


def _check_position_bias(where: str, bias: Tensor, shape: tuple[int, int, int]) -> None:
    if bias.shape != shape:
        raise ShapeError.expected(where, "bias", f"shape {shape[:1]}, or {shape} for one per position", bias.shape)


def filter_window(
    where: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: PairLike,
    padding: Padding,
    dilation: PairLike,
    groups: int,
    exact: bool,
    implementation: str = "auto",
) -> Window:
    """Check all arguments of a convolution, and return its window. Checks of sizes are made once for each geometry."""
    check_tensor(weight, where, "weight")
    check_optional(bias, where, "bias")
    sizes = x.shape, weight.shape, None if bias is None else bias.shape
    options = stride, padding, dilation, groups, exact, implementation
    window = _filter_window(where, *sizes, *options)  # type: ignore[arg-type]
    check_float(x, where)
    check_matches(x, weight, where, "weight")
    check_matches(x, bias, where, "bias")
    return window


@remembered
def _filter_window(
    where: str,
    images: Shape,
    filters: Shape,
    bias: Shape | None,
    stride: PairLike,
    padding: Padding,
    dilation: PairLike,
    groups: int,
    exact: bool,
    implementation: str,
) -> Window:
    """Return the window of ``filters`` (F, C/groups, KH, KW) on ``images`` (N, C, H, W). Checks all sizes."""
    if len(filters) != 4:
        raise ShapeError.expected(where, "weight", "(F, C/groups, KH, KW)", f"shape {filters}")
    F, CG, KH, KW = filters
    _, C, H, W = images
    if not is_count(groups, 1) or F % groups:
        raise ParameterError.expected(where, "groups", f"a positive divisor of the {F} filters", shown(groups))
    if CG * groups != C:
        raise ShapeError.expected(
            where,
            "input",
            f"{CG * groups} channels (weight {filters}, groups {groups})",
            f"{C} (input {images})",
            "put channels second: (N, C, H, W)" if CG * groups == W else "",
        )
    if bias is not None and bias != (F,) and len(bias) != 3:
        raise ShapeError.expected(where, "bias", f"shape ({F},)", bias, "or pass (F, OH, OW), one per position")
    check_implementation(implementation, where)
    return read_window(where, (H, W), (KH, KW), stride, padding, dilation, exact)


def _im2col(backend: Backend, x: Array, requires_grad: RequiresGrad, window: Window) -> Result:
    shape = x.shape
    y = ops.im2col(backend, x, window)
    return y, (lambda dy: (ops.col2im(backend, dy, shape, window),)) if requires_grad[0] else None


def _col2im(
    backend: Backend, columns: Array, requires_grad: RequiresGrad, shape: tuple[int, int, int, int], window: Window
) -> Result:
    x = ops.col2im(backend, columns, shape, window)
    return x, (lambda dy: (ops.im2col(backend, dy, window),)) if requires_grad[0] else None


def im2col(
    x: Tensor,
    kernel_size: PairLike,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    exact: bool = False,
) -> Tensor:
    """Return the (N*OH*OW, C*KH*KW) matrix of all windows of ``x`` (N, C, H, W), columns ordered channel, row, column.

    Any dtype. Raises ShapeError if no window fits (or, with exact=True, if the stride leaves pixels over).

    >>> import gpucnn
    >>> im2col(gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5]]]]), kernel_size=2).tolist()
    [[0.0, 1.0, 3.0, 4.0], [1.0, 2.0, 4.0, 5.0]]
    """
    x, _ = image_batch(x, "im2col")
    window = read_window("im2col", x.shape[2:], kernel_size, stride, padding, dilation, exact)  # type: ignore[arg-type]
    return apply(_im2col, x, window=window)


def col2im(
    cols: Tensor,
    input_shape: tuple[int, int, int, int],
    kernel_size: PairLike,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
) -> Tensor:
    """Return the (N, C, H, W) image in which each pixel is the sum of the elements that ``im2col`` copied from it.

    The adjoint of ``im2col``: sum(im2col(x) * c) == sum(x * col2im(c)). Raises ShapeError if ``cols`` is not
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
    return apply(_col2im, cols, shape=(N, C, H, W), window=window)


def _conv_transpose2d(
    backend: Backend,
    x: Array,
    w: Array,
    b: Array | None,
    requires_grad: RequiresGrad,
    window: Window,
    groups: int,
    shape: tuple[int, int, int, int],
) -> Result:
    """On arrays: the input gradient of the convolution that maps ``shape`` to x's shape."""
    y = ops.conv2d_input_gradient(backend, x, w, shape, window, groups)
    if b is not None:
        y = ops.add_channel_bias(backend, y, b)
    if not any(requires_grad):
        return y, None
    w_shape = w.shape

    def backward(dy: Array) -> tuple[Array | None, Array | None, Array | None]:
        return (
            ops.conv2d(backend, dy, w, None, window, groups) if requires_grad[0] else None,
            ops.conv2d_weight_gradient(backend, dy, x, w_shape, window, groups)[0] if requires_grad[1] else None,
            ops.sum(backend, dy, (0, 2, 3)) if requires_grad[2] else None,
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
    """Return the transposed convolution: each pixel adds its value times its filter to its window of the output.

    input: (N, C, H, W) or one (C, H, W) image; weight: (C, F/groups, KH, KW); bias: (F,). Output: (N, F, OH, OW) with
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + output_padding + 1. output_padding is less than stride or
    dilation. Raises ShapeError, DTypeError or ParameterError. Source: Dumoulin & Visin 2016, "A guide to convolution
    arithmetic", chapter 4.

    >>> import gpucnn
    >>> conv_transpose2d(gpucnn.tensor([[[[1.0, 2.0]]]]), gpucnn.tensor([[[[1.0, 1.0]]]])).tolist()
    [[[[1.0, 3.0, 2.0]]]]
    """
    where = "conv_transpose2d"
    x, added = image_batch(input, where)
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
            apply(_conv_transpose2d, x, weight, bias, window=window, groups=groups, shape=shape), min(added, 1)
        )
    # No window reaches the last rows or columns: compute without padding, crop, and append zeros.
    window = window.with_padding((0, 0, 0, 0))
    shape = (N, F, (H - 1) * SH + window.extent[0], (W - 1) * SW + window.extent[1])
    y = apply(_conv_transpose2d, x, weight, None, window=window, groups=groups, shape=shape)
    y = y[:, :, PH : PH + OH, PW : PW + OW]
    y = pad2d(y, (0, OH - y.shape[2], 0, OW - y.shape[3]))
    return unbatch(y if bias is None else y + bias.reshape(F, 1, 1), min(added, 1))


def check_output_padding(output_padding: Pair, stride: Pair, dilation: Pair, where: str) -> None:
    if any(max(s, d) <= extra for extra, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise ParameterError.expected(where, "output_padding", "less than stride or dilation", repr(output_padding))


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Single = 1,
    padding: Single | str = 0,
    dilation: Single = 1,
    groups: int = 1,
    implementation: str = "auto",
) -> Tensor:
    """Return the cross-correlation of sequences (N, C, L), or one (C, L), with filters (F, C/groups, K): (N, F, OL).

    Sizes, padding names, implementations and errors are those of ``conv2d``; stride, padding and dilation are an int or a
    tuple of one. bias: (F,), or (F, OL) for one per position.

    >>> import gpucnn
    >>> conv1d(gpucnn.tensor([[1.0, 2.0, 4.0]]), gpucnn.tensor([[[-1.0, 1.0]]])).tolist()
    [[1.0, 2.0]]
    """
    where = "conv1d"
    x, unrow = image_row(input, where)
    check_tensor(weight, where, "weight")
    if weight.ndim != 3:
        raise ShapeError.expected(where, "weight", "(F, C/groups, K)", f"shape {weight.shape}")
    check_optional(bias, where, "bias")
    if bias is not None and bias.ndim == 2:
        bias = bias.reshape(bias.shape[0], 1, bias.shape[1])
    elif bias is not None and bias.ndim != 1:
        raise ShapeError.expected(where, "bias", f"shape {weight.shape[:1]}, or (F, OL), one per position", bias.shape)
    w = weight.reshape(*weight.shape[:-1], 1, weight.shape[-1])
    steps, spread = (1, single(stride, where, "stride")), (1, single(dilation, where, "dilation"))
    return unrow(
        _convolve(where, x, w, bias, steps, row_padding(padding, where), spread, groups, False, implementation)
    )


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
    """Return ``conv2d`` by its definition, one loop per dimension: for reading, and to verify other implementations.

    The same as ``conv2d(..., implementation="loops")``. Slow.

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]]])
    >>> conv2d_loops(x, gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).tolist()
    [[[[19.0, 25.0], [37.0, 43.0]]]]
    """
    return conv2d(input, weight, bias, stride, padding, dilation, groups, implementation="loops")


def _conv2d_relu_max_pool2d(
    backend: Backend, x: Array, w: Array, b: Array | None, requires_grad: RequiresGrad, window: Window, groups: int
) -> Result:
    """On arrays. Keeps x, w and one byte for each pooled pixel, but not the convolution's output."""
    y, indices = ops.conv2d_relu_max_pool2d(backend, x, w, b, window, groups, any(requires_grad))
    if not any(requires_grad):
        return y, None
    wanted = (requires_grad[0], requires_grad[1] or requires_grad[2])
    return y, lambda dy: ops.conv2d_relu_max_pool2d_gradients(backend, x, w, dy, indices, window, groups, wanted)


def conv2d_folded(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    relu: bool,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    groups: int = 1,
    exact: bool = False,
) -> Tensor:
    """Return batch_norm(conv2d(...)) by the running statistics (F,), or its ReLU, as one convolution without gradients.

    The batch norm's scale and shift are folded into filters and bias: Jacob et al. 2018, "Quantization and training of
    neural networks for efficient integer-arithmetic-only inference", section 3.2. Raises what ``conv2d`` raises.
    """
    x, added = image_batch(input, "conv2d")
    window = filter_window("conv2d", x, weight, bias, stride, padding, dilation, groups, exact)
    statistics = running_mean, running_var, norm_weight, norm_bias
    y = apply(_conv2d_folded, x, weight, bias, *statistics, window=window, groups=groups, eps=eps, relu=relu)
    return unbatch(y, min(added, 1))


def _conv2d_folded(
    backend: Backend, x: Array, w: Array, b: Array | None, mean: Array, var: Array, weight: Array | None,
    bias: Array | None, requires_grad: RequiresGrad, window: Window, groups: int, eps: float, relu: bool,
) -> Result:  # fmt: skip
    w, b = ops.folded_batch_norm(backend, w, b, mean, var, weight, bias, eps)
    forward = ops.conv2d_relu if relu else ops.conv2d
    return forward(backend, x, w, b, window, groups), None


def conv2d_relu_max_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: PairLike = 1,
    padding: Padding = 0,
    dilation: PairLike = 1,
    groups: int = 1,
    exact: bool = False,
) -> Tensor:
    """Return max_pool2d(relu(conv2d(...)), 2): (N, C, H, W) -> (N, F, OH // 2, OW // 2); arguments as for ``conv2d``.

    If maxima in a 2x2 window are equal, the gradient may go to a different one than in the separate operations. Raises what
    ``conv2d`` raises, and ShapeError if fewer than 2x2 pixels are left to pool.

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]]])
    >>> conv2d_relu_max_pool2d(x, gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).tolist()
    [[[[43.0]]]]
    """
    x, added = image_batch(input, "conv2d")
    window = filter_window("conv2d", x, weight, bias, stride, padding, dilation, groups, exact)
    if bias is not None and bias.ndim == 3:
        raise ShapeError.expected(
            "conv2d_relu_max_pool2d", "bias", f"shape {weight.shape[:1]}", bias.shape, "use conv2d for one per position"
        )
    OH, OW = window.output_size(x.shape[2], x.shape[3])
    if min(OH, OW) < 2:
        raise ShapeError.expected("max_pool2d", "input", "at least 2x2 pixels", f"{OH}x{OW}", "pad the convolution")
    return unbatch(apply(_conv2d_relu_max_pool2d, x, weight, bias, window=window, groups=groups), min(added, 1))
