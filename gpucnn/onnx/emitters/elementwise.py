"""Arithmetic, activations and comparisons."""

from __future__ import annotations

import math
from typing import Any

from gpucnn.onnx.emitters.registry import emits
from gpucnn.onnx.reading import DTYPES
from gpucnn.onnx.tracing import Step
from gpucnn.onnx.writing import Writer

OPERATIONS = "gpucnn.autograd.operations"
ACTIVATION = "gpucnn.functional.activation"
TAPE = "gpucnn.onnx.tape"

PLAIN = {
    f"{OPERATIONS}.{name}": op
    for name, op in {
        "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "neg": "Neg", "matmul": "MatMul", "exp": "Exp",
        "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "clone": "Identity",
    }.items()
} | {
    f"{ACTIVATION}._relu": "Relu", f"{ACTIVATION}._sigmoid": "Sigmoid", f"{ACTIVATION}._tanh": "Tanh",
    f"{OPERATIONS}.where": "Where", f"{TAPE}._erf": "Erf", f"{TAPE}._sin": "Sin",
}  # fmt: skip
"""Operations that are one operator with the same inputs and no parameters."""


@emits(*PLAIN)
def plain(w: Writer, step: Step, *inputs: str) -> str:
    return w.node(PLAIN[step.operation], inputs)


@emits(f"{OPERATIONS}.comparison")
def comparison(w: Writer, step: Step, a: str, b: str) -> str:
    symbol = step.params["compared"]
    ops = {"==": "Equal", "!=": "Equal", "<": "Less", "<=": "LessOrEqual", ">": "Greater", ">=": "GreaterOrEqual"}
    y = w.node(ops[symbol], [a, b])
    return w.node("Not", [y]) if symbol == "!=" else y


def element_type(dtype: Any) -> int:
    """Return ONNX's number of a dtype."""
    return next(number for number, name in DTYPES.items() if name == str(dtype))


@emits(f"{OPERATIONS}.to_dtype")
def cast(w: Writer, step: Step, x: str) -> str:
    return w.node("Cast", [x], to=element_type(step.params["dtype"]))


@emits(f"{ACTIVATION}._softmax", f"{ACTIVATION}._log_softmax")
def softmax(w: Writer, step: Step, x: str) -> str:
    return w.node("Softmax" if step.operation.endswith("._softmax") else "LogSoftmax", [x], axis=step.params["axis"])


@emits(f"{ACTIVATION}._leaky_relu")
def leaky_relu(w: Writer, step: Step, x: str) -> str:
    return w.node("LeakyRelu", [x], alpha=step.params["slope"])


@emits(f"{ACTIVATION}._elu")
def elu(w: Writer, step: Step, x: str) -> str:
    alpha, scale = step.params["alpha"], step.params["scale"]
    return w.node("Elu", [x], alpha=alpha) if scale == 1 else w.node("Selu", [x], alpha=alpha, gamma=scale)


@emits(f"{ACTIVATION}._softplus")
def softplus(w: Writer, step: Step, x: str) -> str:
    beta = step.params["beta"]
    if beta == 1:
        return w.node("Softplus", [x])
    factor = w.constant(beta, step.dtype)
    return w.node("Div", [w.node("Softplus", [w.node("Mul", [x, factor])]), factor])


@emits(f"{ACTIVATION}._hardsigmoid")
def hardsigmoid(w: Writer, step: Step, x: str) -> str:
    return w.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5)


@emits(f"{ACTIVATION}._gelu", f"{ACTIVATION}._gelu_tanh")
def gelu(w: Writer, step: Step, x: str) -> str:
    approximate = "none" if step.operation.endswith("._gelu") else "tanh"
    if w.opset >= 20:
        return w.node("Gelu", [x], approximate=approximate)

    def number(value: float) -> str:
        return w.constant(value, step.dtype)

    if approximate == "none":
        inner = w.node("Erf", [w.node("Div", [x, number(math.sqrt(2))])])
    else:
        cubed = w.node("Mul", [w.node("Mul", [x, w.node("Mul", [x, x])]), number(0.044715)])
        inner = w.node("Tanh", [w.node("Mul", [w.node("Add", [x, cubed]), number(math.sqrt(2 / math.pi))])])
    return w.node("Mul", [w.node("Mul", [x, number(0.5)]), w.node("Add", [inner, number(1)])])


@emits(f"{OPERATIONS}.clip", f"{ACTIVATION}._hardtanh")
def clip(w: Writer, step: Step, x: str) -> str:
    low, high = step.params["low"], step.params["high"]
    bounds = [
        None if bound is None or abs(bound) == math.inf else w.constant(bound, step.dtype) for bound in (low, high)
    ]
    return w.node("Clip", [x, *bounds])


@emits(f"{TAPE}._step")
def rounding(w: Writer, step: Step, x: str) -> str:
    return w.node(step.params["kind"], [x])


@emits(f"{TAPE}._pair")
def pair(w: Writer, step: Step, a: str, b: str) -> str:
    kind = step.params["kind"]
    if kind in ("And", "Or", "Xor"):
        return w.node(kind, [a, b])
    whole = "int" in step.dtype
    if kind == "FMod":
        return w.node("Mod", [a, b], fmod=1)
    if kind == "Remainder" and whole:
        return w.node("Mod", [a, b])
    if kind == "FloorDivide" and whole:
        return w.node("Div", [w.node("Sub", [a, w.node("Mod", [a, b])]), b])
    if kind == "FloorDivide":
        return w.node("Floor", [w.node("Div", [a, b])])
    rest, zero = w.node("Mod", [a, b], fmod=1), w.constant(0, step.dtype)  # of the sign of a; wanted is that of b
    other_sign = w.node("Xor", [w.node("Less", [rest, zero]), w.node("Less", [b, zero])])
    wrong = w.node("And", [other_sign, w.node("Not", [w.node("Equal", [rest, zero])])])
    return w.node("Where", [wrong, w.node("Add", [rest, b]), rest])
