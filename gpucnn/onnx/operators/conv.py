"""Convolutions and matrix products."""

from __future__ import annotations

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.errors import ShapeError
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import of_rank, operator, room_for
from gpucnn.onnx.operators.window import images, spatial, window_of

Ints = tuple[int, ...]


@operator("Conv", inputs=(2, 3), trained=(1, 2))
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    of_rank(node, x, 3, 4)
    of_rank(node, weight, x.ndim)
    if node.ints("kernel_shape", weight.shape[2:]) != weight.shape[2:]:
        raise node.expected("kernel_shape", f"the weight's {weight.shape[2:]}", node.ints("kernel_shape"))
    kernel, stride, padding, dilation = window_of(node, weight.shape[2:], x.shape[2:])
    (x, back), (weight, _) = images(x), images(weight)
    pixels = [
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, d, before, after in zip(
            x.shape[2:], kernel, stride, dilation, padding[::2], padding[1::2], strict=True
        )
    ]
    room_for(node, (x.shape[0], weight.shape[0], *(max(n, 0) for n in pixels)))
    return back(F.conv2d(x, weight, bias, stride, padding, dilation, node.int("group", 1)))


@operator("ConvTranspose", inputs=(2, 3), trained=(1, 2))
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    of_rank(node, x, 3, 4)
    of_rank(node, weight, x.ndim)
    count = x.ndim - 2
    kernel, stride = weight.shape[2:], spatial(node, "strides", count, 1)
    dilation, extra = spatial(node, "dilations", count, 1), spatial(node, "output_padding", count, 0, least=0)
    whole = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation, strict=True)]
    pads = _transposed_pads(node, x.shape[2:], whole, stride, extra)
    groups = node.int("group", 1)
    room_for(node, (x.shape[0], weight.shape[1] * groups, *(n + e for n, e in zip(whole, extra, strict=True))))
    (x, back), (weight, _) = images(x), images(weight)
    if count == 1:
        stride, dilation, extra, pads, whole = (1, *stride), (1, *dilation), (0, *extra), [(0, 0), *pads], [1, *whole]
    simple = all(before == after for before, after in pads)
    if simple and all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        padding = tuple(before for before, _ in pads)
        return back(F.conv_transpose2d(x, weight, bias, stride, padding, extra, groups, dilation))
    y = F.conv_transpose2d(x, weight, None, stride, 0, 0, groups, dilation)
    ends = [n + e - after for n, e, (_, after) in zip(whole, extra, pads, strict=True)]
    for n, end, (before, _) in zip(whole, ends, pads, strict=True):
        if end <= before:
            raise ShapeError.expected(node.place, "output", "at least one pixel", f"{end - before}", "pad less")
        room_for(node, (*y.shape[:2], n, end))
    y = F.pad2d(y, (0, max(ends[0] - whole[0], 0), 0, max(ends[1] - whole[1], 0)))
    y = y[:, :, pads[0][0] : ends[0], pads[1][0] : ends[1]]
    return back(y if bias is None else y + bias.reshape(-1, 1, 1))


def _transposed_pads(node: Node, size: Ints, whole: list[int], stride: Ints, extra: Ints) -> list[tuple[int, int]]:
    """Return how much is cut off before and after, for each axis."""
    count, auto = len(size), node.text("auto_pad", "NOTSET")
    wanted = node.attributes.get("output_shape")
    if wanted is None and auto not in ("SAME_UPPER", "SAME_LOWER"):
        pads = node.ints("pads", (0,) * 2 * count, 2 * count) if auto == "NOTSET" else (0,) * 2 * count
        if min(pads) < 0:
            raise node.expected("pads", "ints of at least 0", pads)
        return list(zip(pads[:count], pads[count:], strict=True))
    shape = [n * s for n, s in zip(size, stride, strict=True)]
    if wanted is not None:
        shape = list(node.ints("output_shape")[-count:])
    totals = [n + e - out for n, e, out in zip(whole, extra, shape, strict=True)]
    halves = [(t // 2, t - t // 2) for t in totals]  # the odd one at the end
    if auto != "SAME_UPPER" and (auto == "SAME_LOWER" or wanted is not None):
        halves = [(after, before) for before, after in halves]
    if min(totals) < 0:  # more is asked for than there is: zeros at the end
        halves = [(max(before, 0), after + min(before, 0)) for before, after in halves]
    return halves


@operator("Gemm", inputs=(2, 3), trained=(0, 1, 2))
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    of_rank(node, a, 2)
    of_rank(node, b, 2)
    alpha, beta = node.float("alpha", 1.0), node.float("beta", 1.0)
    a = a.T if node.flag("transA") else a
    if node.flag("transB") and alpha == beta == 1 and a.dtype.kind == "f" and (c is None or c.shape == b.shape[:1]):
        return F.linear(a, b, c)
    b = b.T if node.flag("transB") else b
    if a.shape[1] != b.shape[0]:
        raise ShapeError.expected(node.place, "inputs", "(M, K) and (K, N)", f"{a.shape} and {b.shape}")
    room_for(node, (a.shape[0], b.shape[1]))
    y = a @ b
    y = y if alpha == 1 else y * alpha
    return y if c is None else y + (c if beta == 1 else c * beta)


@operator("MatMul", inputs=(2, 2), trained=(0, 1))
def matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else -1]:
        raise ShapeError.expected(node.place, "inputs", "matrices that fit", f"{a.shape} and {b.shape}")
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    room_for(node, (*max(a.shape[:-2], b.shape[:-2], key=len), *rows, *columns))
    return a @ b
