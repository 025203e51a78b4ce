"""Normalisation, softmax and dropout."""

from __future__ import annotations

import math

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.errors import ShapeError
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import axes_of, axis_of, operator, unsupported


@operator("BatchNormalization", inputs=(5, 5), trained=(1, 2), modes=True)
def batch_normalization(
    node: Node, training: bool, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    epsilon, momentum = node.float("epsilon", 1e-5), node.float("momentum", 0.9)
    if not 0 <= momentum <= 1:
        raise node.expected("momentum", "a number from 0 to 1", momentum)
    if len(node.outputs) > 1 and node.flag("training_mode"):
        axes = (0, *range(2, x.ndim))
        batch_mean = x.mean(axes, keepdims=True)
        batch_var = ((x - batch_mean) ** 2).mean(axes)
        y = F.batch_norm(x, None, None, scale, bias, False, 0.0, epsilon)
        means = mean * momentum + batch_mean.reshape(-1) * (1 - momentum)
        return y, means, var * momentum + batch_var * (1 - momentum)
    return F.batch_norm(x, mean, var, scale, bias, training, 1 - momentum, epsilon)


@operator("InstanceNormalization", inputs=(3, 3), trained=(1, 2))
def instance_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    channels = x.shape[1] if x.ndim > 1 else 1
    return F.group_norm(x, channels, scale, bias, node.float("epsilon", 1e-5))


@operator("GroupNormalization", inputs=(3, 3), trained=(1, 2))
def group_normalization(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, epsilon = node.int("num_groups"), node.float("epsilon", 1e-5)
    if node.version >= 21 or scale.shape != (groups,) or x.ndim < 2:
        return F.group_norm(x, groups, scale, bias, epsilon)
    y = F.group_norm(x, groups, None, None, epsilon)  # one scale for a group
    grouped = y.reshape(x.shape[0], groups, -1) * scale.reshape(groups, 1) + bias.reshape(groups, 1)
    return grouped.reshape(*x.shape)


@operator("LayerNormalization", inputs=(2, 3), trained=(1, 2))
def layer_normalization(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axis = axis_of(node, node.int("axis", -1), x.ndim)
    epsilon = node.float("epsilon", 1e-5)
    axes = tuple(range(axis, x.ndim))
    if len(node.outputs) > 1:
        mean = x.mean(axes, keepdims=True)
        factor = 1 / (((x - mean) ** 2).mean(axes, keepdims=True) + epsilon).sqrt()
        y = (x - mean) * factor * scale
        results = (y if bias is None else y + bias, mean, factor)
        return results[: len(node.outputs)]
    y = F.layer_norm(x, x.shape[axis:], None, None, epsilon) * scale
    return y if bias is None else y + bias


@operator("RMSNormalization", inputs=(2, 2), trained=(1,))
def rms_normalization(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(axis_of(node, node.int("axis", -1), x.ndim), x.ndim))
    return x / ((x * x).mean(axes, keepdims=True) + node.float("epsilon", 1e-5)).sqrt() * scale


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, x: Tensor) -> Tensor:
    axes = axes_of(node, node.ints("axes", (0, 2, 3)), x.ndim)
    centred = x - x.mean(axes, keepdims=True)
    return centred / ((centred * centred).mean(axes, keepdims=True).sqrt() + 1e-9)


@operator("LRN")
def local_response_normalization(node: Node, x: Tensor) -> Tensor:
    """Each value divided by a power of the squares of its neighbours in other channels. Krizhevsky et al. 2012."""
    size, alpha, beta, bias = (
        node.int("size"),
        node.float("alpha", 1e-4),
        node.float("beta", 0.75),
        node.float("bias", 1.0),
    )
    if x.ndim < 2 or not 1 <= size <= 2**16:
        raise ShapeError.expected(
            node.place, "input", "(N, C, ...) and a size of at least 1", f"{x.shape}, size {size}"
        )
    N, C = x.shape[:2]
    planes = (x * x).reshape(N, 1, C, max(x.size // max(N * C, 1), 1))
    before = (size - 1) // 2
    if size > 1:
        padded = F.pad2d(planes, (before, size - 1 - before, 0, 0))
        planes = F.avg_pool2d(padded, (size, 1), 1)
    return x / (planes.reshape(*x.shape) * alpha + bias) ** beta


@operator("LpNormalization")
def lp_normalization(node: Node, x: Tensor) -> Tensor:
    axis, power = axis_of(node, node.int("axis", -1), x.ndim), node.int("p", 2)
    norm = abs(x).sum(axis, keepdims=True) if power == 1 else (x * x).sum(axis, keepdims=True).sqrt()
    nothing = norm == 0
    return tape.where(nothing, x * 0, x / tape.where(nothing, norm + 1, norm))


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    function = F.softmax if node.op == "Softmax" else F.log_softmax
    if node.version >= 13:
        return function(x, axis_of(node, node.int("axis", -1), x.ndim))
    axis = axis_of(node, node.int("axis", 1), max(x.ndim, 1))
    return function(x.reshape(math.prod(x.shape[:axis]), -1), 1).reshape(*x.shape)


@operator("Hardmax")
def hardmax(node: Node, x: Tensor) -> Tensor:
    axis = axis_of(node, node.int("axis", -1 if node.version >= 13 else 1), x.ndim)
    if node.version < 13:
        flat = x.reshape(math.prod(x.shape[:axis]), -1)
        return _one_hot(flat, 1).reshape(*x.shape)
    return _one_hot(x, axis)


def _one_hot(x: Tensor, axis: int) -> Tensor:
    first = x.argmax(axis)
    shape = (*first.shape[:axis], 1, *first.shape[axis:])
    classes = tape.constant(range(x.shape[axis]), "int64", x).reshape(-1, *(1,) * (x.ndim - axis - 1))
    return (first.reshape(*shape) == classes).to(x.dtype)


@operator("Dropout", inputs=(1, 3), host=(1, 2), modes=True)
def dropout(
    node: Node, training: bool, x: Tensor, ratio: Tensor | None = None, training_mode: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The identity; in the module's own training mode, elements are dropped with the file's probability."""
    if training_mode is not None and training_mode.item():
        raise unsupported(node, "training_mode=True, as the results are random")
    p = float(ratio.item()) if ratio is not None else node.float("ratio", 0.5)
    if not 0 <= p <= 1:
        raise node.expected("ratio", "a number from 0 to 1", p)
    y = F.dropout(x, p) if training and x.dtype.kind == "f" else x
    if len(node.outputs) > 1:
        return y, tape.broadcast(tape.constant(True, "bool", x), x.shape)
    return y
