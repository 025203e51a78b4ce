"""Shapes and costs of a loaded network, node by node."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpucnn.analysis.summary import Summary, SummaryRow
from gpucnn.autograd import Tensor, no_grad
from gpucnn.autograd import tensor as make_tensor
from gpucnn.backend import ops
from gpucnn.errors import ShapeError
from gpucnn.onnx.graph import Node, Value
from gpucnn.onnx.module import GraphModule, shape_words


def summary_of(net: GraphModule, input_shape: tuple[int, ...] | None = None) -> Summary:
    """Return the output shape and cost of each node, from one run on zeros.

    input_shape: of the first input without the batch; by default the file's own. ShapeError if the file leaves a length open
    and ``input_shape`` is not given, or if it does not fit.
    """
    rows: list[SummaryRow] = []
    counted: set[str] = set()

    def after(node: Node, inputs: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        y = results[0]
        new = [name for name in node.inputs if name not in counted and net.is_weight(name)]
        counted.update(new)
        size = sum(tensor.size for name in new if (tensor := net.constant(name)) is not None)
        work, columns = _cost(node, inputs, y)
        rows.append(
            SummaryRow(
                node.name or node.outputs[0], node.op, y.shape, size, work, y.size * y.dtype.itemsize,
                columns * y.dtype.itemsize, None, None,
            )
        )  # fmt: skip

    inputs = [_zeros(net, value, input_shape if i == 0 else None) for i, value in enumerate(net.graph.inputs)]
    with no_grad():
        net.run_graph(inputs, after)
    parameters = sum(parameter.size for parameter in net.parameters())
    shape = inputs[0].shape[1:] if inputs else ()
    return Summary("ONNX", shape, str(inputs[0].dtype) if inputs else "", tuple(rows), parameters, parameters)


def _zeros(net: GraphModule, value: Value, shape: tuple[int, ...] | None) -> Tensor:
    known = (1, *shape) if shape is not None else value.shape or ()
    lengths = [1 if n is None and axis == 0 else n for axis, n in enumerate(known)]
    if None in lengths or (shape is None and value.shape is None):
        words = "all lengths known"
        raise ShapeError.expected(
            "summary", f"input {value.name}", words, shape_words(value), "give --input-shape C,H,W"
        )
    like = next(iter(net.parameters()), None)
    backend = make_tensor(0).backend if like is None else like.backend
    return Tensor(ops.zeros(backend, tuple(n or 0 for n in lengths), value.dtype), backend)


def _cost(node: Node, inputs: Sequence[Tensor | None], y: Tensor) -> tuple[int, int]:
    """Return multiply-adds, and the elements of the im2col matrix."""
    x, weight = inputs[0] if inputs else None, inputs[1] if len(inputs) > 1 else None
    if x is None or weight is None:
        return 0, 0
    if node.op == "Conv":
        each = math.prod(weight.shape[1:])
        return y.size * each, y.size // y.shape[1] * each * node.int("group", 1)
    if node.op == "ConvTranspose":
        return x.size * math.prod(weight.shape[1:]), 0
    if node.op in ("Gemm", "MatMul"):
        return y.size * x.shape[0 if node.op == "Gemm" and node.flag("transA") else -1], 0
    return 0, 0
