"""Operators that treat each element by itself: arithmetic, activations, comparisons."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

from gpucnn import functional as F
from gpucnn.autograd import Tensor
from gpucnn.errors import ShapeError
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Node
from gpucnn.onnx.operators.registry import axis_of, numbers, operator, room_for

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": abs, "Neg": lambda x: -x, "Exp": Tensor.exp, "Log": Tensor.log, "Sqrt": Tensor.sqrt,
    "Reciprocal": lambda x: 1 / x, "Identity": lambda x: x, "Relu": F.relu, "Sigmoid": F.sigmoid, "Tanh": F.tanh,
    "Softsign": lambda x: x / (1 + abs(x)), "Mish": lambda x: x * F.tanh(F.softplus(x, threshold=math.inf)),
    "Softplus": lambda x: F.softplus(x, threshold=math.inf), "HardSwish": lambda x: x * F.hardsigmoid(x),
    "Erf": tape.erf, "Sin": tape.sin, "Cos": lambda x: tape.sin(x + math.pi / 2),
}  # fmt: skip


@operator(*UNARY)
def unary(node: Node, x: Tensor) -> Tensor:
    return UNARY[node.op](x)


@operator("Floor", "Ceil", "Round", "Sign", "Not", "IsNaN")
def step(node: Node, x: Tensor) -> Tensor:
    if node.op in ("Floor", "Ceil", "Round") and x.dtype.kind != "f":
        return x
    return tape.step(x, node.op)


@operator("IsInf")
def is_infinite(node: Node, x: Tensor) -> Tensor:
    infinite = abs(x) == math.inf
    if not node.flag("detect_negative", True):
        infinite = tape.pair(infinite, x > 0, "And")
    return infinite if node.flag("detect_positive", True) else tape.pair(infinite, x < 0, "And")


@operator("LeakyRelu")
def leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.float("alpha", 0.01))


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return x * (x > node.float("alpha", 1.0))


@operator("Elu")
def elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.float("alpha", 1.0))


@operator("Celu")
def celu(node: Node, x: Tensor) -> Tensor:
    alpha = node.float("alpha", 1.0)
    return F.elu(x / alpha) * alpha


@operator("Selu")
def selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.float("alpha", 1.67326319217681884765625), node.float("gamma", 1.05070102214813232421875)
    return F.elu(x, alpha) * gamma


@operator("HardSigmoid")
def hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return tape.clip(x * node.float("alpha", 0.2) + node.float("beta", 0.5), 0.0, 1.0)


@operator("Swish")
def swish(node: Node, x: Tensor) -> Tensor:
    return x * F.sigmoid(x * node.float("alpha", 1.0))


@operator("Gelu")
def gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, node.text("approximate", "none", ("none", "tanh")))


@operator("Shrink")
def shrink(node: Node, x: Tensor) -> Tensor:
    lambd, bias = node.float("lambd", 0.5), node.float("bias", 0.0)
    return (x < -lambd) * (x + bias) + (x > lambd) * (x - bias) if x.dtype.kind == "f" else _shrunk(x, lambd, bias)


def _shrunk(x: Tensor, lambd: float, bias: float) -> Tensor:
    wide = x.to("float32")
    return ((wide < -lambd) * (wide + bias) + (wide > lambd) * (wide - bias)).to(x.dtype)


@operator("PRelu", inputs=(2, 2), trained=(1,))
def prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    _broadcast_shape(node, x, slope)
    return tape.where(x > 0, x, x * slope)


@operator("Clip", inputs=(1, 3), host=(1, 2))
def clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bounds: list[Any] = [node.attributes.get("min"), node.attributes.get("max")]
    if node.version >= 11:
        bounds = [None if b is None else numbers(node, "bounds", b)[0] for b in (low, high)]
    integers = x.dtype.kind != "f"
    usual = (-(2**63), 2**63 - 1) if integers else (-math.inf, math.inf)
    least, most = (u if b is None else b for b, u in zip(bounds, usual, strict=True))
    if integers:
        return tape.clip(x.to("int64"), least, most).to(x.dtype)
    return tape.clip(x, float(least), float(most))


# --- two operands, and more -------------------------------------------------------------------------------------------


def _broadcast_shape(node: Node, a: Tensor, b: Tensor) -> tuple[int, ...]:
    """Return the shape of a result of both; ShapeError where they do not broadcast, or beyond the bound."""
    longer, shorter = (a.shape, b.shape) if a.ndim >= b.ndim else (b.shape, a.shape)
    lead = len(longer) - len(shorter)
    lengths = list(longer[:lead])
    for n, m in zip(longer[lead:], shorter, strict=True):
        if n != m and 1 not in (n, m):
            raise ShapeError.expected(node.place, "inputs", "shapes that broadcast", f"{a.shape} and {b.shape}")
        lengths.append(m if n == 1 else n)
    return room_for(node, lengths)


def _old_broadcast(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """Return b as operator sets before 7 align it: from ``axis`` of a on, rather than at the end."""
    if node.version < 7 and node.flag("broadcast") and "axis" in node.attributes and b.ndim:
        after = a.ndim - axis_of(node, node.int("axis"), a.ndim) - b.ndim
        if after > 0:
            return b.reshape(*b.shape, *(1,) * after)
    return b


def _divide(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype.kind == "f":
        return a / b
    quotient = tape.pair(abs(a), abs(b), "FloorDivide") if a.dtype.kind == "i" else tape.pair(a, b, "FloorDivide")
    return tape.where((a < 0) == (b < 0), quotient, -quotient) if a.dtype.kind == "i" else quotient


def _power(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype.kind != "f" and b.dtype.kind == "f":
        return (a.to(b.dtype) ** b).to(a.dtype)
    return (a ** b.to(a.dtype)).to(a.dtype)


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b, "Div": _divide, "Pow": _power,
    "Equal": lambda a, b: a == b, "Less": lambda a, b: a < b, "Greater": lambda a, b: a > b,
    "LessOrEqual": lambda a, b: a <= b, "GreaterOrEqual": lambda a, b: a >= b,
    "And": lambda a, b: tape.pair(a, b, "And"), "Or": lambda a, b: tape.pair(a, b, "Or"),
    "Xor": lambda a, b: tape.pair(a, b, "Xor"),
}  # fmt: skip


@operator("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor", "Pow", inputs=(2, 2))
@operator("Add", "Sub", "Mul", "Div", inputs=(2, 2), trained=(0, 1))
def binary(node: Node, a: Tensor, b: Tensor) -> Tensor:
    b = _old_broadcast(node, a, b)
    _broadcast_shape(node, a, b)
    return BINARY[node.op](a, b)


@operator("Mod", inputs=(2, 2))
def mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    _broadcast_shape(node, a, b)
    return tape.pair(a, b, "FMod" if node.flag("fmod") else "Remainder")


@operator("Max", "Min", "Sum", "Mean", inputs=(1, 1000))
def several(node: Node, *tensors: Tensor) -> Tensor:
    def two(a: Tensor, b: Tensor) -> Tensor:
        _broadcast_shape(node, a, b)
        if node.op in ("Sum", "Mean"):
            return a + b
        chosen = tape.where(a >= b if node.op == "Max" else a <= b, a, b)
        return tape.where(a != a, a, chosen) if a.dtype.kind == "f" else chosen

    total = reduce(two, tensors)
    return total / len(tensors) if node.op == "Mean" else total


@operator("Where", inputs=(3, 3))
def where(node: Node, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    shape = _broadcast_shape(node, a, b)
    if condition.shape != shape:
        _broadcast_shape(node, condition, a)
        _broadcast_shape(node, condition, b)
    return tape.where(condition, a, b)
