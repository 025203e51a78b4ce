"""Reductions over axes."""

from __future__ import annotations

import math
from collections.abc import Callable

from gpucnn.autograd import Tensor, concatenate
from gpucnn.errors import ShapeError
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import axes_of, axis_of, operator
from gpucnn.onnx.operators.shape import ints_of

Axes = tuple[int, ...]


def _log_sum_exp(x: Tensor, axes: Axes) -> Tensor:
    largest = x.max(axes, keepdims=True).detach()
    largest = tape.where(largest.isfinite(), largest, largest * 0) if x.dtype.kind == "f" else largest
    return (x - largest).exp().sum(axes, keepdims=True).log() + largest


def _product(x: Tensor, axes: Axes) -> Tensor:
    """Multiply the halves of each axis until one element is left, so that zeros among the factors do no harm."""
    for axis in axes:
        lead = (slice(None),) * axis
        while (n := x.shape[axis]) > 1:
            half = n // 2
            y = x[(*lead, slice(0, half))] * x[(*lead, slice(half, 2 * half))]
            if n % 2:
                last = x[(*lead, slice(n - 1, n))]
                first = y[(*lead, slice(0, 1))] * last
                y = first if half == 1 else concatenate([first, y[(*lead, slice(1, half))]], axis)
            x = y
    return x


REDUCTIONS: dict[str, Callable[[Tensor, Axes], Tensor]] = {
    "ReduceSum": lambda x, axes: x.sum(axes, keepdims=True),
    "ReduceMean": lambda x, axes: x.mean(axes, keepdims=True),
    "ReduceMax": lambda x, axes: x.max(axes, keepdims=True),
    "ReduceMin": lambda x, axes: x.min(axes, keepdims=True),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes: abs(x).sum(axes, keepdims=True),
    "ReduceL2": lambda x, axes: (x * x).sum(axes, keepdims=True).sqrt(),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axes, keepdims=True),
    "ReduceLogSum": lambda x, axes: x.sum(axes, keepdims=True).log(),
    "ReduceLogSumExp": _log_sum_exp,
}


def _of_nothing(op: str, x: Tensor, axes: Axes) -> Tensor:
    """Return what a reduction over no elements gives: the neutral element."""
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    kind, bits = x.dtype.kind, 8 * x.dtype.itemsize
    ends = {"f": (-math.inf, math.inf), "b": (False, True), "u": (0, 2**bits - 1)}
    low, high = ends.get(kind, (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    neutral = {"ReduceMax": low, "ReduceMin": high, "ReduceProd": 1, "ReduceLogSumExp": low}[op]
    return tape.broadcast(tape.constant(neutral, str(x.dtype), x), shape)


@operator(*REDUCTIONS, inputs=(1, 2), host=(1,))
def reduction(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = ints_of(node, "axes", axes)
    if not given and node.flag("noop_with_empty_axes"):
        chosen: Axes = ()
    else:
        chosen = axes_of(node, given, x.ndim) if given else tuple(range(x.ndim))
    dtype = x.dtype
    if node.op in ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp") and any(not x.shape[i] for i in chosen):
        y = _of_nothing(node.op, x, chosen)
    elif chosen or node.op not in ("ReduceMax", "ReduceMin", "ReduceMean"):
        y = REDUCTIONS[node.op](x, chosen)
    else:
        y = x
    y = y.to(dtype)
    if node.flag("keepdims", True):
        return y
    return y.reshape([n for i, n in enumerate(x.shape) if i not in chosen])


@operator("ArgMax", "ArgMin")
def arg(node: Node, x: Tensor) -> Tensor:
    axis = axis_of(node, node.int("axis", 0), x.ndim)
    n = x.shape[axis]
    if not n:
        raise ShapeError.expected(node.place, "input", "at least one element along the axis", f"shape {x.shape}")
    signed = x if node.op == "ArgMax" else -x.to("int64" if x.dtype.kind in "iu" else x.dtype)
    if node.flag("select_last_index"):
        backwards = signed[(*(slice(None),) * axis, slice(None, None, -1))]
        y = (n - 1) - backwards.argmax(axis)
    else:
        y = signed.argmax(axis)
    return y.reshape(*y.shape[:axis], 1, *y.shape[axis:]) if node.flag("keepdims", True) else y
