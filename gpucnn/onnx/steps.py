"""A loaded graph as the operations that the playground's page runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from gpucnn.autograd import Tensor, no_grad
from gpucnn.autograd import tensor as make_tensor
from gpucnn.backend import ops
from gpucnn.functional.pool import pooling_window, window_counts
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import axes_of
from gpucnn.onnx.operators.window import spatial, window_of

ACTIVATIONS: dict[str, Callable[[Node], dict[str, Any]]] = {
    "Relu": lambda node: {"function": "relu"},
    "Sigmoid": lambda node: {"function": "sigmoid"},
    "Tanh": lambda node: {"function": "tanh"},
    "Exp": lambda node: {"function": "exponential"},
    "HardSwish": lambda node: {"function": "hardswish"},
    "LeakyRelu": lambda node: {"function": "leakyrelu", "negative_slope": node.float("alpha", 0.01)},
    "Elu": lambda node: {"function": "elu", "alpha": node.float("alpha", 1.0)},
    "Gelu": lambda node: {"function": "gelu", "approximate": node.text("approximate", "none")},
    "HardSigmoid": lambda node: {
        "function": "clip", "slope": node.float("alpha", 0.2), "intercept": node.float("beta", 0.5), "low": 0.0, "high": 1.0,
    },
}  # fmt: skip
"""Operators that treat each number by itself, as the page calls them."""

FIXED = ("Shape", "Size")
"""Operators whose results depend on the shape alone, which is known."""

COPIES = ("Identity", "Dropout", "Cast")
RESHAPES = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


class Steps:
    """Adds the nodes of a graph, one after the other, to the operations of a page."""

    def __init__(self, steps: Any, path: str) -> None:
        self.steps, self.path = steps, path
        self.values: dict[str, int] = {}
        """The number of each value that depends on the image."""

    def after(self, node: Node, inputs: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        """Add a node that has been run, if its result depends on the image."""
        given = [self.values.get(name) for name in node.inputs]
        if node.op in FIXED or all(value is None for value in given):
            return
        shape = results[0].shape
        if shape[:1] != (1,) or len(shape) not in (2, 4):
            raise self._refused(node, f"a result of shape {shape}")
        self.values[node.outputs[0]] = self._added(node, inputs, given, shape[1:])

    def _refused(self, node: Node, got: str = "") -> Exception:
        return node.expected("operator", "one that the page can run", got or node.op)

    def _add(self, node: Node, kind: str, shape: tuple[int, ...], value: int | None = None, **rest: Any) -> int:
        inputs = (self.values[node.inputs[0]] if value is None else value,)
        added: int = self.steps.add(kind, inputs, shape, node.name or self.path, **rest)
        return added

    def _added(
        self, node: Node, inputs: Sequence[Tensor | None], given: list[int | None], shape: tuple[int, ...]
    ) -> int:
        if all(value is not None for value in given):
            known: tuple[int, ...] = tuple(value for value in given if value is not None)
            same = all(self.steps.shape(value) == shape for value in known)
            if node.op in ("Add", "Sum") and same and len(known) > 1:
                return self.steps.add("add", known, shape, node.name or self.path)  # type: ignore[no-any-return]
            if node.op == "Mul" and same:
                return self.steps.add("multiply", known, shape, node.name or self.path)  # type: ignore[no-any-return]
            if node.op == "Concat" and node.int("axis") in (1, -len(shape)):
                return self.steps.add("concat", known, shape, node.name or self.path)  # type: ignore[no-any-return]
        if node.op in ("Add", "Sub", "Mul", "Div") and len(given) == 2:
            return self._scaled(node, inputs, given, shape)
        if given[0] is None or any(value is not None for value in given[1:]):
            raise self._refused(node)
        constants = [None if x is None else x.detach().numpy() for x in inputs[1:]]
        return self._one_input(node, constants, shape)

    def _one_input(self, node: Node, constants: list[Any], shape: tuple[int, ...]) -> int:
        """Add a node with one input that depends on the image."""
        op, before = node.op, self.steps.shape(self.values[node.inputs[0]])
        if op == "Conv" and len(before) == 3:
            return self._conv(node, constants, before, shape)
        if op in ("Gemm", "MatMul"):
            return self._linear(node, constants, shape)
        if op in ("MaxPool", "AveragePool") and len(before) == 3:
            return self._pool(node, before, shape)
        if op in ("GlobalAveragePool", "GlobalMaxPool") and len(before) == 3:
            kind = "bins_mean" if op == "GlobalAveragePool" else "bins_max"
            return self._add(node, kind, shape, word="pool")
        if op == "ReduceMean" and len(before) == 3 and self._over_pixels(node, constants):
            pooled = self._add(node, "bins_mean", (before[0], 1, 1), word="pool")
            return pooled if len(shape) == 3 else self._add(node, "flatten", shape, pooled)
        if op == "BatchNormalization":
            scale, bias, mean, var = constants
            scale = scale / (var + node.float("epsilon", 1e-5)) ** 0.5
            return self._add(node, "norm", shape, arrays={"mean": mean, "scale": scale, "shift": bias})
        if op in ACTIVATIONS:
            arguments = ACTIVATIONS[op](node)
            return self._add(node, "activation", shape, word=arguments["function"], arguments=arguments)
        if op == "Clip" and node.version >= 11:
            bounds = [None if value is None else float(value) for value in (*constants, None, None)[:2]]
            low, high = bounds[0], bounds[1]
            arguments = {
                "function": "clip", "slope": 1.0, "intercept": 0.0, "low": -1e38 if low is None else low,
                "high": 1e38 if high is None else high,
            }  # fmt: skip
            return self._add(node, "activation", shape, word="clip", arguments=arguments)
        if op in ("Softmax", "LogSoftmax") and len(shape) == 1 and node.int("axis", -1) in (1, -1):
            return self._add(node, "softmax" if op == "Softmax" else "log_softmax", shape)
        if op in COPIES and shape == before:
            return self._add(node, "identity", shape, word=op.lower())
        if op in RESHAPES and math.prod(shape) == math.prod(before):
            return self._add(node, "flatten", shape)
        raise self._refused(node)

    def _conv(self, node: Node, constants: list[Any], before: tuple[int, ...], shape: tuple[int, ...]) -> int:
        weight, bias = constants[0], constants[1] if len(constants) > 1 else None
        kernel, stride, padding, dilation = window_of(node, weight.shape[2:], before[1:])
        arguments = {
            "kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": node.int("group", 1),
            "border": "zeros",
        }  # fmt: skip
        arrays = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        return self._add(node, "conv", shape, arguments=arguments, arrays=arrays)

    def _linear(self, node: Node, constants: list[Any], shape: tuple[int, ...]) -> int:
        weight, bias = constants[0], constants[1] if len(constants) > 1 else None
        if weight.ndim != 2 or len(shape) != 1 or (node.op == "Gemm" and node.flag("transA")):
            raise self._refused(node)
        if not (node.op == "Gemm" and node.flag("transB")):
            weight = weight.T
        if node.op == "Gemm":
            weight = weight * node.float("alpha", 1.0)
        arrays = {"weight": weight}
        if bias is not None:
            scaled = bias * node.float("beta", 1.0)
            arrays["bias"] = (scaled.reshape(-1) if scaled.size == shape[0] else scaled.reshape(-1)[:1]) + 0 * weight[
                :, 0
            ]
        return self._add(node, "linear", shape, arrays=arrays)

    def _pool(self, node: Node, before: tuple[int, ...], shape: tuple[int, ...]) -> int:
        kernel, stride, padding, dilation = window_of(node, spatial(node, "kernel_shape", 2, 0), before[1:])
        size = (before[1], before[2])
        window, asked = pooling_window(node.op, size, kernel, stride, padding, dilation, node.flag("ceil_mode"))
        arguments: dict[str, Any] = {
            "kernel": window.kernel, "stride": window.stride, "padding": window.padding, "dilation": window.dilation,
        }  # fmt: skip
        if node.op == "MaxPool":
            return self._add(node, "max_pool", shape, word="pool", arguments=arguments)
        counts = window_counts(window, asked if node.flag("count_include_pad") else (0, 0, 0, 0), size)
        rows, columns = counts if isinstance(counts, tuple) else ([counts] * shape[1], [1] * shape[2])
        arguments["counts"] = [list(rows), list(columns)]
        return self._add(node, "avg_pool", shape, word="pool", arguments=arguments)

    def _scaled(
        self, node: Node, inputs: Sequence[Tensor | None], given: list[int | None], shape: tuple[int, ...]
    ) -> int:
        """Add a sum or product of the image's value and a constant for each channel."""
        place = 0 if given[0] is not None else 1
        value, constant = given[place], inputs[1 - place]
        if given[1 - place] is not None or value is None or constant is None or self.steps.shape(value) != shape:
            raise self._refused(node)
        C = shape[0]
        numbers = constant.detach().numpy()
        lead = (1,) * (len(shape) + 1 - numbers.ndim)
        numbers = numbers.reshape(lead + numbers.shape)
        if numbers.size not in (1, C) or numbers.shape[1] not in (1, C) or (node.op == "Div" and place):
            raise self._refused(node, f"{node.op} of {constant.shape}")
        each = numbers.reshape(-1) + [0.0] * C
        scale, shift = [1.0] * C, [0.0] * C
        if node.op in ("Mul", "Div"):
            scale = each if node.op == "Mul" else 1 / each
        elif node.op == "Add":
            shift = each
        else:
            shift, scale = (-each, scale) if not place else (each, [-1.0] * C)
        word = "scale" if node.op in ("Mul", "Div") else "shift"
        arrays = {"mean": [0.0] * C, "scale": scale, "shift": shift}
        return self._add(node, "norm", shape, value, word=word, arrays=arrays)

    def _over_pixels(self, node: Node, constants: list[Any]) -> bool:
        axes = node.attributes.get("axes") or (tuple(constants[0].tolist()) if constants else ())
        return sorted(axes_of(node, axes, 4)) == [2, 3]


def add_graph(net: Any, steps: Any, value: int, path: str) -> int:
    """Add the nodes of a ``GraphModule`` with one input, in evaluation mode; return the number of its result.

    ParameterError, which names the node, for one that the page cannot run.
    """
    known = Steps(steps, path)
    (wanted,) = net.graph.inputs
    known.values[wanted.name] = value
    like = next(iter(net.parameters()), None)
    backend = make_tensor(0).backend if like is None else like.backend
    with no_grad():
        net.eval().run_graph([Tensor(ops.zeros(backend, (1, *steps.shape(value)), wanted.dtype), backend)], known.after)
    return known.values[net.graph.outputs[0]]
