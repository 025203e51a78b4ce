"""Fusion of nodes for evaluation without gradients: convolutions with the arithmetic after them, and the hard swish.

Batch normalisation and multiplication by constants become part of a convolution's filters. Files of PaddlePaddle, among
others, write x clip(x + 3, 0, 6) / 6 as four nodes. The folded filters are kept as long as the weights are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpucnn.autograd import Tensor
from gpucnn.backend import Window, ops
from gpucnn.functional import conv2d
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Graph, Node
from gpucnn.onnx.operators.window import window_of
from gpucnn.onnx.running import run

Lookup = Callable[[str], Tensor | None]
MOST_SIZES = 64
"""Sizes of images whose geometry a convolution remembers."""
ARITHMETIC = ("Add", "Sub", "Mul", "Div")


@dataclass
class Fused:
    """Several nodes that run as one: the first of them, its inputs that are no constants, the result."""

    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    absorbed: tuple[Node, ...]
    reads: tuple[str, ...]
    """The constants that it depends on."""
    compute: Callable[[Fused, Lookup], Any]
    """Returns what is kept between runs."""
    apply: Callable[[Fused, Tensor, Any], Tensor]
    key: tuple[Any, ...] = ()
    kept: Any = field(default=None, repr=False)

    def run(self, x: Tensor, lookup: Lookup) -> Tensor:
        tensors = [lookup(name) for name in self.reads]
        key = tuple((id(t.array), t.version.count) for t in tensors if t is not None)
        if key != self.key:
            self.kept, self.key = self.compute(self, lookup), key
        return self.apply(self, x, self.kept)


Part = Node | Fused


def plan(graph: Graph, lookup: Lookup) -> list[Part]:
    """Return the graph's nodes, with neighbours fused where only the rounding changes."""
    uses: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            uses.setdefault(name, []).append(node)
    ends = set(graph.outputs)

    def only_user(name: str) -> Node | None:
        users = uses.get(name, [])
        return users[0] if len(users) == 1 and name not in ends else None

    found: list[Part] = []
    gone: set[int] = set()
    for node in graph.nodes:
        if id(node) in gone:
            continue
        fused = _convolution(node, only_user, lookup) or _hard_swish(node, uses, only_user, lookup)
        found.append(fused or node)
        gone |= {id(one) for one in fused.absorbed} if fused else set()
    return found


def last_uses(parts: Sequence[Part], outputs: Iterable[str], constants: Callable[[str], bool]) -> list[tuple[str, ...]]:
    """Return for each part the values that no later one reads."""
    seen, found = set(outputs), []
    for part in reversed(parts):
        names = {name for name in part.inputs if name and name not in seen and not constants(name)}
        seen |= names
        found.append((*names, *(name for name in part.outputs if name not in seen)))
    return found[::-1]


# --- a convolution and what follows ---------------------------------------------------------------------------------------


def _convolution(node: Node, only_user: Callable[[str], Node | None], lookup: Lookup) -> Fused | None:
    def constant(names: Iterable[str]) -> bool:
        return all(not name or lookup(name) is not None for name in names)

    if node.op not in ("Conv", "ConvTranspose") or not constant(node.inputs[1:]) or constant(node.inputs[:1]):
        return None
    weight = lookup(node.inputs[1])
    if weight is None or weight.ndim != 4 or (node.op == "ConvTranspose" and node.attributes.get("group", 1) != 1):
        return None
    channels = weight.shape[0 if node.op == "Conv" else 1]
    absorbed: list[Node] = []
    end = node.outputs[0]
    while (after := only_user(end)) is not None and _folds(after, end, channels, lookup):
        absorbed.append(after)
        end = after.outputs[0]
    reads = [*node.inputs[1:], *(name for one in absorbed for name in one.inputs if lookup(name) is not None)]
    return Fused(node, node.inputs[:1], (end,), tuple(absorbed), tuple(filter(None, reads)), _filters, _convolve)


def _folds(node: Node, value: str, channels: int, lookup: Lookup) -> bool:
    """Whether a node is a multiple and a shift of each channel of ``value``."""
    if node.op == "BatchNormalization":
        return (
            node.inputs[0] == value
            and len(node.outputs) == 1
            and all(lookup(name) is not None for name in node.inputs[1:])
        )
    if node.op not in ARITHMETIC or len(node.inputs) != 2 or node.version < 7:
        return False
    other = node.inputs[1 if node.inputs[0] == value else 0]
    constant = lookup(other)
    turned = node.inputs[0] != value and node.op in ("Sub", "Div")
    if constant is None or turned or constant.dtype.kind != "f":
        return False
    shape = constant.shape
    return (constant.size == 1 and len(shape) <= 4) or (
        constant.size == channels and shape[-3:] == (channels, 1, 1) and len(shape) <= 4
    )


def _filters(fused: Fused, lookup: Lookup) -> tuple[Tensor, Tensor | None, dict[Any, Any]]:
    """Return the filters and biases equivalent to the convolution and the nodes after it, and an empty geometry cache."""
    node = fused.node
    weight = lookup(node.inputs[1])
    assert weight is not None
    if not fused.absorbed:
        return weight, lookup(node.inputs[2]) if len(node.inputs) > 2 else None, {}
    channels = weight.shape[0 if node.op == "Conv" else 1]
    scale = tape.broadcast(tape.constant(1.0, str(weight.dtype), weight), (channels,))
    bias = lookup(node.inputs[2]) if len(node.inputs) > 2 else None
    shift = scale * 0 if bias is None else bias
    for one in fused.absorbed:
        constants = [t for t in map(lookup, one.inputs) if t is not None]
        if one.op == "BatchNormalization":
            gamma, beta, mean, var = constants
            factor = gamma / (var + one.float("epsilon", 1e-5)).sqrt()
            scale, shift = scale * factor, (shift - mean) * factor + beta
            continue
        c = constants[0].reshape(-1)
        if one.op in ("Mul", "Div"):
            scale, shift = (scale * c, shift * c) if one.op == "Mul" else (scale / c, shift / c)
        else:
            shift = shift + c if one.op == "Add" else shift - c
    shape = (channels, 1, 1, 1) if node.op == "Conv" else (1, channels, 1, 1)
    return weight * scale.reshape(*shape), shift, {}


def _spreads(node: Node, weight: Tensor) -> bool:
    """Whether a transposed convolution gives each pixel a block of its own, as at stride 2 with a 2x2 kernel."""
    count = len(weight.shape) - 2
    plain = all(not any(node.ints(name, (0,) * n)) for name, n in (("pads", 2 * count), ("output_padding", count)))
    same = node.ints("strides", (1,) * count) == weight.shape[2:] and set(node.ints("dilations", (1,))) == {1}
    given = "output_shape" in node.attributes or node.text("auto_pad", "NOTSET") != "NOTSET"
    return node.op == "ConvTranspose" and plain and same and not given


def _spread(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return such a transposed convolution: a 1x1 convolution makes the pixels of the blocks, which move side by side."""
    (_, F, KH, KW), (N, _, H, W) = weight.shape, x.shape
    filters = weight.transpose(1, 2, 3, 0).reshape(F * KH * KW, -1, 1, 1)
    y = conv2d(x, filters).reshape(N, F, KH, KW, H, W).transpose(0, 1, 4, 2, 5, 3).reshape(N, F, H * KH, W * KW)
    return y if bias is None else y + bias.reshape(F, 1, 1)


def _convolve(fused: Fused, x: Tensor, kept: tuple[Tensor, Tensor | None, dict[Any, Any]]) -> Tensor:
    """Run the node; for images of a kind that it has met before, without reading and checking its attributes again."""
    node, (weight, bias, known) = fused.node, kept
    kind = x.shape, x.dtype, x.backend
    if kind in known:
        window, groups = known[kind]
        y = ops.conv2d(x.backend, x.array, weight.array, None if bias is None else bias.array, window, groups)
        return x.like(y)
    if x.ndim == 4 and x.shape[1] == weight.shape[0] and x.dtype == weight.dtype and _spreads(node, weight):
        return _spread(x, weight, bias)
    result = run(node, [x, weight, bias], False)[0]
    if node.op == "Conv" and x.ndim == 4 and x.backend is weight.backend:
        if len(known) > MOST_SIZES:
            known.clear()
        kernel, stride, padding, dilation = window_of(node, weight.shape[2:], x.shape[2:])
        known[kind] = Window(kernel, stride, padding, dilation), node.int("group", 1)
    return result


# --- the hard swish -------------------------------------------------------------------------------------------------------


def _hard_swish(
    node: Node, uses: dict[str, list[Node]], only_user: Callable[[str], Node | None], lookup: Lookup
) -> Fused | None:
    """Recognise Add 3, Clip from 0 to 6, Mul, Div 6, and a factor and a shift that may follow."""
    x = _operand(node, "Add", 3, lookup)
    if x is None or len(uses.get(x, ())) != 2:
        return None
    clip = only_user(node.outputs[0])
    if clip is None or clip.op != "Clip" or [_number(lookup(name)) for name in clip.inputs[1:]] != [0, 6]:
        return None
    product = only_user(clip.outputs[0])
    if product is None or product.op != "Mul" or set(product.inputs) != {x, clip.outputs[0]}:
        return None
    quotient = only_user(product.outputs[0])
    if quotient is None or _operand(quotient, "Div", 6, lookup) != product.outputs[0]:
        return None
    absorbed, end = [clip, product, quotient], quotient.outputs[0]
    for op in ("Mul", "Add"):
        after = only_user(end)
        if after is None or _operand(after, op, None, lookup) != end:
            break
        absorbed.append(after)
        end = after.outputs[0]
    reads = tuple(n for one in (node, *absorbed) for n in one.inputs if lookup(n) is not None)
    return Fused(node, (x,), (end,), tuple(absorbed), reads, _factor_and_shift, _swish)


def _operand(node: Node, op: str, number: float | None, lookup: Lookup) -> str | None:
    """Return the value that a node adds, multiplies or divides by a single ``number`` (None: by any); else None."""
    if node.op != op or len(node.inputs) != 2 or node.version < 7:
        return None
    for value, other in (node.inputs, node.inputs[::-1]):
        constant = lookup(other)
        if constant is not None and lookup(value) is None and constant.size == 1 and constant.ndim <= 1:
            if number is not None and _number(constant) != number:
                return None
            return None if op == "Div" and value != node.inputs[0] else value
    return None


def _number(tensor: Tensor | None) -> float | None:
    return None if tensor is None or tensor.size != 1 else float(tensor.item())


def _factor_and_shift(fused: Fused, lookup: Lookup) -> tuple[float, float]:
    values = [1.0, 0.0]
    for one in fused.absorbed[3:]:
        constant = next(t for t in map(lookup, one.inputs) if t is not None)
        values[("Mul", "Add").index(one.op)] = float(constant.item())
    return values[0], values[1]


def _swish(fused: Fused, x: Tensor, kept: tuple[float, float]) -> Tensor:
    return tape.hardswish(x, *kept)
