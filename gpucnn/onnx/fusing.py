"""Fusion of nodes for evaluation without gradients: convolutions with what follows them, the hard swish, sizes.

Batch normalisation and multiplication by constants become part of a convolution's filters, and an activation part of its
kernel. Files of PaddlePaddle, among others, write x clip(x + 3, 0, 6) / 6 as four nodes. The folded filters, and what nodes
compute from the shape of an image, are kept as long as the constants are unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpucnn.autograd import Tensor
from gpucnn.backend import Window, ops
from gpucnn.functional import conv2d, relu
from gpucnn.onnx import tape
from gpucnn.onnx.graph import Graph, Node
from gpucnn.onnx.operators.window import window_of
from gpucnn.onnx.running import run

Lookup = Callable[[str], Tensor | None]
Activation = tuple[str, float, float]
MOST_SIZES = 64
"""Sizes of images that a convolution, or a computation of sizes, remembers."""
MOST_NUMBERS = 100
"""The most numbers of a computed size that are remembered."""
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
    seen: list[tuple[str, Tensor, Any, int]] | None = None
    """The constants that ``kept`` was computed from: names, tensors, their arrays and versions."""
    kept: Any = field(default=None, repr=False)
    activation: Node | Fused | None = None
    """What follows a convolution in its kernel, and its nodes: ``followers``."""
    followers: tuple[Node, ...] = ()

    def run(self, x: Tensor, lookup: Lookup) -> Tensor:
        for name, tensor, array, version in self.seen or ():
            if lookup(name) is not tensor or tensor.array is not array or tensor.version.count != version:
                self.seen = None
                break
        if self.seen is None:
            self.kept = self.compute(self, lookup)
            found = ((name, lookup(name)) for name in self.reads)
            self.seen = [(name, t, t.array, t.version.count) for name, t in found if t is not None]
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
        fused = (
            _convolution(node, ends, uses, only_user, lookup)
            or _hard_swish(node, uses, only_user, lookup)
            or _sizes(node, graph, uses, lookup)
        )
        found.append(fused or node)
        gone |= {id(one) for one in (*fused.absorbed, *fused.followers)} if fused else set()
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


def _convolution(
    node: Node, ends: set[str], uses: dict[str, list[Node]], only_user: Callable[[str], Node | None], lookup: Lookup
) -> Fused | None:
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
    found = Fused(node, node.inputs[:1], (end,), tuple(absorbed), tuple(filter(None, reads)), _filters, _convolve)
    if node.op == "Conv" and weight.dtype == "float32" and end not in ends:
        _with_activation(found, uses, only_user, lookup)
    return found


def _with_activation(
    fused: Fused, uses: dict[str, list[Node]], only_user: Callable[[str], Node | None], lookup: Lookup
) -> None:
    """Add the activation that follows a convolution, if its kernel has it."""
    (end,) = fused.outputs
    after = only_user(end)
    more: tuple[Node, ...]
    if after is not None and after.op in ("Relu", "HardSigmoid", "HardSwish"):
        fused.activation, more = after, (after,)
    else:
        swishes = [_hard_swish(user, uses, only_user, lookup) for user in uses.get(end, ()) if user.op == "Add"]
        swish = next((one for one in swishes if one is not None and one.inputs == (end,)), None)
        if swish is None:
            return
        fused.activation, more = swish, (swish.node, *swish.absorbed)
        fused.reads += swish.reads
    fused.outputs, fused.followers = fused.activation.outputs, more


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


def _filters(fused: Fused, lookup: Lookup) -> tuple[Tensor, Tensor | None, Activation | None, dict[Any, Any]]:
    """Return the equivalent filters and biases, the activation after them, and an empty geometry cache."""
    node, activation = fused.node, _numbers_of(fused.activation, lookup)
    weight = lookup(node.inputs[1])
    assert weight is not None
    if not fused.absorbed:
        return weight, lookup(node.inputs[2]) if len(node.inputs) > 2 else None, activation, {}
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
    return weight * scale.reshape(*shape), shift, activation, {}


def _numbers_of(activation: Node | Fused | None, lookup: Lookup) -> Activation | None:
    """Return the name of an activation and its two numbers."""
    if activation is None:
        return None
    if isinstance(activation, Fused):
        return "hardswish", *_factor_and_shift(activation, lookup)
    if activation.op == "HardSigmoid":
        return "hardsigmoid", activation.float("alpha", 0.2), activation.float("beta", 0.5)
    return ("relu" if activation.op == "Relu" else "hardswish"), 1.0, 0.0


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


def _convolve(fused: Fused, x: Tensor, kept: tuple[Tensor, Tensor | None, Activation | None, dict[Any, Any]]) -> Tensor:
    """Run the node; for images of a kind that it has met before, without reading and checking its attributes again."""
    node, (weight, bias, activation, known) = fused.node, kept
    kind = x.shape, x.dtype, x.backend
    if kind in known:
        window, groups = known[kind]
        given = x.backend, x.array, weight.array, None if bias is None else bias.array, window, groups
        if activation is None:
            return x.like(ops.conv2d(*given))
        return x.like(ops.conv2d_relu(*given) if activation[0] == "relu" else ops.conv2d_hard(*given, *activation))
    if x.ndim == 4 and x.shape[1] == weight.shape[0] and x.dtype == weight.dtype and _spreads(node, weight):
        return _spread(x, weight, bias)
    result = run(node, [x, weight, bias], False)[0]
    if node.op == "Conv" and x.ndim == 4 and x.backend is weight.backend:
        if len(known) > MOST_SIZES:
            known.clear()
        kernel, stride, padding, dilation = window_of(node, weight.shape[2:], x.shape[2:])
        known[kind] = Window(kernel, stride, padding, dilation), node.int("group", 1)
    return result if activation is None else _activated(result, *activation)


def _activated(x: Tensor, name: str, factor: float, shift: float) -> Tensor:
    if name == "relu":
        return relu(x)
    return tape.hardswish(x, factor, shift) if name == "hardswish" else tape.hardsigmoid(x, factor, shift)


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


# --- sizes ----------------------------------------------------------------------------------------------------------------

OF_NUMBERS = (
    "Add", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Slice", "Squeeze", "Sub", "Unsqueeze",
)  # fmt: skip
"""What files do to the shape of an image before they use it as a size."""


def _sizes(node: Node, graph: Graph, uses: dict[str, list[Node]], lookup: Lookup) -> Fused | None:
    """Recognise the computation of one value from the shape of an image and from constants."""
    if node.op != "Shape" or lookup(node.inputs[0]) is not None:
        return None
    made, nodes = set(node.outputs), [node]
    for one in graph.nodes:
        inputs = set(filter(None, one.inputs))
        if one.op in OF_NUMBERS and inputs & made and all(n in made or lookup(n) is not None for n in inputs):
            made.update(one.outputs)
            nodes.append(one)
    inside = {id(one) for one in nodes}
    ends = [n for n in made if n in graph.outputs or any(id(user) not in inside for user in uses.get(n, ()))]
    if len(nodes) < 2 or len(ends) != 1 or ends[0] in graph.outputs:
        return None
    reads = tuple({name for one in nodes for name in one.inputs if name and lookup(name) is not None})

    return Fused(node, node.inputs[:1], (ends[0],), tuple(nodes[1:]), reads, _constants_of, _computed)


def _constants_of(fused: Fused, lookup: Lookup) -> tuple[dict[str, Tensor | None], dict[Any, Tensor]]:
    return {name: lookup(name) for name in fused.reads}, {}


def _computed(fused: Fused, x: Tensor, kept: tuple[dict[str, Tensor | None], dict[Any, Tensor]]) -> Tensor:
    """Run the nodes, once for each shape."""
    constants, known = kept
    found = known.get(x.shape)
    if found is None:
        values = {**constants, fused.node.inputs[0]: x}
        for node in (fused.node, *fused.absorbed):
            results = run(node, [values[name] if name else None for name in node.inputs], False)
            values.update(zip(node.outputs, results, strict=False))
        found = values[fused.outputs[0]]
        assert found is not None
        if found.size > MOST_NUMBERS:
            return found
        if len(known) > MOST_SIZES:
            known.clear()
        known[x.shape] = found
    return found.clone()
