"""Pooling."""

from __future__ import annotations

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.errors import ShapeError
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import of_rank, operator, room_for, unsupported, whole_numbers
from gpucnn.onnx.operators.window import images, spatial, window_of


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    if x.dtype.kind != "f":
        y = max_pool(node, x.to("float64"))
        return (y[0].to(x.dtype), y[1]) if isinstance(y, tuple) else y.to(x.dtype)
    count = of_rank(node, x, 3, 4).ndim - 2
    window = window_of(node, spatial(node, "kernel_shape", count, 0), x.shape[2:])
    x, back = images(x)
    kernel, stride, padding, dilation = window
    ceil_mode = node.flag("ceil_mode")
    if len(node.outputs) < 2 or not node.outputs[1]:
        return back(F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode))
    y, places = F.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil_mode)
    N, C, H, W = x.shape
    if node.flag("storage_order"):
        rows = tape.pair(places, tape.constant(W, "int64", places), "FloorDivide")
        places = (places - rows * W) * H + rows
    planes = tape.constant([i * H * W for i in range(N * C)], "int64", places)
    return back(y), back(places + planes.reshape(N, C, 1, 1))


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    count = of_rank(node, x, 3, 4).ndim - 2
    kernel, stride, padding, dilation = window_of(node, spatial(node, "kernel_shape", count, 0), x.shape[2:])
    x, back = images(x)
    counted = node.flag("count_include_pad")
    return back(F.avg_pool2d(x, kernel, stride, padding, node.flag("ceil_mode"), counted, None, dilation))


@operator("LpPool")
def lp_pool(node: Node, x: Tensor) -> Tensor:
    count = of_rank(node, x, 3, 4).ndim - 2
    kernel, stride, padding, dilation = window_of(node, spatial(node, "kernel_shape", count, 0), x.shape[2:])
    x, back = images(x)
    return back(F.lp_pool2d(x, _power(node), kernel, stride, padding, dilation, node.flag("ceil_mode")))


def _power(node: Node) -> float:
    power = node.attributes.get("p", 2)
    if not isinstance(power, (int, float)) or power < 1:
        raise node.expected("p", "a number of at least 1", power)
    return power


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node, x: Tensor) -> Tensor:
    if x.ndim < 3 or not x.size:
        raise ShapeError.expected(node.place, "input", "(N, C, ...) with pixels", f"shape {x.shape}")
    axes = tuple(range(2, x.ndim))
    if node.op == "GlobalMaxPool":
        return x.max(axes, keepdims=True)
    if node.op == "GlobalAveragePool":
        if x.ndim == 4:
            return F.global_avg_pool2d(x)
        return x.mean(axes, keepdims=True)
    power = float(_power(node))
    return (abs(x) ** power).sum(axes, keepdims=True) ** (1 / power)


@operator("MaxUnpool", inputs=(2, 3), host=(2,))
def max_unpool(node: Node, x: Tensor, indices: Tensor, shape: Tensor | None = None) -> Tensor:
    of_rank(node, x, 4)
    kernel, stride = spatial(node, "kernel_shape", 2, 0), spatial(node, "strides", 2, 1)
    pads = node.ints("pads", (0,) * 4, 4)
    N, C, H, W = x.shape
    size = tuple(
        (n - 1) * s - before - after + k
        for n, s, k, before, after in zip((H, W), stride, kernel, pads[:2], pads[2:], strict=True)
    )
    wanted = (N, C, *size) if shape is None else whole_numbers(node, "output_shape", shape)
    room_for(node, wanted)
    if len(wanted) != 4 or wanted[:2] != (N, C) or min(wanted) < 1 or indices.shape != x.shape:
        raise ShapeError.expected(node.place, "output_shape", f"({N}, {C}, OH, OW) and an index for each value", wanted)
    area = size[0] * size[1]  # indices count within (N, C, OH, OW) of the pooled image, whatever output_shape says
    places = tape.pair(indices, tape.constant(area, "int64", indices), "Remainder")
    if wanted[3] != size[1] and shape is not None:
        rows = tape.pair(places, tape.constant(size[1], "int64", places), "FloorDivide")
        places = rows * wanted[3] + (places - rows * size[1])
    if indices.size and int(places.max().item()) >= wanted[2] * wanted[3]:
        raise unsupported(node, "an index outside the output")
    return F.max_unpool2d(x, places, (kernel[0], kernel[1]), output_size=(wanted[2], wanted[3]))
