"""Computing the constant parts of a graph, and finding the constants that are weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from gpucnn import limits
from gpucnn.autograd import Tensor, no_grad
from gpucnn.backend import get_backend
from gpucnn.errors import ParameterError, did_you_mean, shortened
from gpucnn.onnx.graph import Constant, Graph, Node
from gpucnn.onnx.operators import OPERATORS
from gpucnn.onnx.running import run

MADE_BYTES = 5 * 2**27
"""The most bytes of all constants computed from a file: VGG-19, if made from shapes only, takes 575 MB."""

FOLDED = {
    "Constant", "ConstantOfShape", "Identity", "Cast", "CastLike", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze",
    "Concat", "Slice", "Split", "Gather", "Shape", "Size", "Range", "Add", "Sub", "Mul", "Div", "Neg",
    "Sqrt", "Reciprocal", "Pow", "Abs", "Floor", "Ceil", "Where", "Equal", "Less", "Greater", "LessOrEqual",
    "GreaterOrEqual", "And", "Or", "Not", "Max", "Min", "Mod",
}  # fmt: skip
"""Operators that are computed on loading if all inputs are constants: those whose cost is proportional to their result."""


def needed(graph: Graph, outputs: tuple[str, ...]) -> Graph:
    """Return the part of a graph that ``outputs`` depend on. ParameterError for an unknown name."""
    wanted, kept = set(outputs), []
    known = {name for node in graph.nodes for name in node.outputs} | {value.name for value in graph.inputs}
    for name in outputs:
        if name not in known | graph.constants.keys():
            raise ParameterError.expected(
                "load", "outputs", "names of values", repr(shortened(name, 60)), did_you_mean(name, known)
            )
    for node in reversed(graph.nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted |= set(node.inputs)
    constants = {name: value for name, value in graph.constants.items() if name in wanted}
    inputs = tuple(value for value in graph.inputs if value.name in wanted)
    return replace(graph, nodes=tuple(reversed(kept)), constants=constants, inputs=inputs, outputs=outputs)


def check_operators(nodes: Iterable[Node]) -> None:
    """Raise ParameterError, which names the node, for an unknown operator, or too few or many inputs."""
    missing = [node for node in nodes if node.op not in OPERATORS]
    if missing:
        others = sorted({node.op for node in missing} - {missing[0].op})
        also = f" Also missing: {shortened(', '.join(others), 200)}." if others else ""
        raise ParameterError(f"{missing[0].place}: there is no such operator in gpucnn, so nothing was run.{also}")
    for node in nodes:
        known, given = OPERATORS[node.op], len(node.inputs)
        if not known.least <= given <= known.most or not all(node.inputs[: known.least]):
            words = f"{known.least}" if known.least == known.most else f"{known.least} to {known.most}"
            raise node.expected("inputs", words, given)


def folded(graph: Graph) -> Graph:
    """Return the graph without the nodes whose results are constants, which are computed here, on the host."""
    constants, nodes, made = dict(graph.constants), [], 0
    cpu = get_backend("cpu")
    with no_grad():
        for node in graph.nodes:
            known = [constants[name] for name in node.inputs if name in constants]
            if node.op not in FOLDED or len(known) < sum(map(bool, node.inputs)) or not _is_cheap(known):
                nodes.append(node)
                continue
            _check_made(node, made + sum(array.nbytes for array in known))
            inputs = [Tensor(cpu.asarray(constants[name]), cpu) if name else None for name in node.inputs]
            for name, result in zip(node.outputs, run(node, inputs, False), strict=False):
                if name:
                    own = node.op in ("Constant", "ConstantOfShape")  # others may be views of what they are made from
                    constants[name] = array = result.array if own else result.numpy()
                    made += array.nbytes
            _check_made(node, made)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def _check_made(node: Node, made: int) -> None:
    limits.check(node.place, "bytes of constants that the file does not hold", made, MADE_BYTES, ParameterError)


def _is_cheap(arrays: list[Constant]) -> bool:
    """Whether a result of these arrays cannot be much larger than they are, as by broadcasting."""
    large = [array for array in arrays if array.size > 1]
    return len({array.shape for array in large}) <= 1 or math.prod(array.size for array in large) <= 2**22


def roles(graph: Graph) -> tuple[set[str], set[str]]:
    """Return the names of the constants that are weights, and of those that are only read as numbers, on the host."""
    weights: set[str] = set()
    elsewhere: set[str] = set(graph.outputs)
    for node in graph.nodes:
        known = OPERATORS[node.op]
        for position, name in enumerate(node.inputs):
            if name not in graph.constants:
                continue
            value: Constant = graph.constants[name]
            if position not in known.host:
                elsewhere.add(name)
            # A single number in plain arithmetic is part of a formula, such as the 6 of a hard sigmoid.
            if position in known.trained and value.dtype.kind == "f" and (value.size > 1 or node.op not in ARITHMETIC):
                weights.add(name)
    return weights, {n for n, v in graph.constants.items() if n not in elsewhere or v.dtype.kind != "f"}


ARITHMETIC = ("Add", "Sub", "Mul", "Div", "MatMul")
