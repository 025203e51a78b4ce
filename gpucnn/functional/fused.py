"""Operations that do in one what ``Sequential`` would do in several; their values are those of the separate ones."""

from __future__ import annotations

from gpucnn.autograd import Tensor, apply
from gpucnn.autograd.operations import Needs, Result
from gpucnn.backend import Array, Backend, Window
from gpucnn.errors import ShapeError
from gpucnn.functional.arguments import Padding, PairLike, image_batch, read_window, unbatch
from gpucnn.functional.conv import check_filters


def convolution_relu_maximum(
    backend: Backend, x: Array, w: Array, b: Array | None, needs: Needs, window: Window, groups: int
) -> Result:
    """Array level: keeps x, w and one byte for each pooled pixel; the convolution's output is never kept."""
    y, place = backend.conv2d_relu_max_pool2d(x, w, b, window, groups, any(needs))
    if not any(needs):
        return y, None
    wanted = (needs[0], needs[1] or needs[2])
    return y, lambda dy: backend.conv2d_relu_max_pool2d_gradients(x, w, dy, place, window, groups, wanted)


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

    Of equal maxima in a 2x2 window another may get the gradient than in the separate operations. Raises what ``conv2d``
    raises, and ShapeError where fewer than 2x2 pixels are left to pool.

    >>> import gpucnn
    >>> x = gpucnn.tensor([[[[0.0, 1, 2], [3, 4, 5], [6, 7, 8]]]])
    >>> conv2d_relu_max_pool2d(x, gpucnn.tensor([[[[0.0, 1], [2, 3]]]])).tolist()
    [[[[43.0]]]]
    """
    x, single = image_batch(input, "conv2d")
    check_filters(x, weight, bias, groups)
    if bias is not None and bias.ndim == 3:
        raise ShapeError.expected(
            "conv2d_relu_max_pool2d", "bias", f"shape {weight.shape[:1]}", bias.shape, "use conv2d for one per position"
        )
    window = read_window("conv2d", x.shape[2:], weight.shape[2:], stride, padding, dilation, exact)  # type: ignore[arg-type]
    OH, OW = window.output_size(x.shape[2], x.shape[3])
    if min(OH, OW) < 2:
        raise ShapeError.expected("max_pool2d", "input", "at least 2x2 pixels", f"{OH}x{OW}", "pad the convolution")
    return unbatch(apply(convolution_relu_maximum, x, weight, bias, window=window, groups=groups), single)
