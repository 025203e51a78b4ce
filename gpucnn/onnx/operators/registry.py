"""The table of operators: a function on tensors for each name.

    @operator("Relu")
    def relu(node: Node, x: Tensor) -> Tensor: ...

A function gets the node, whose methods return the attributes, and a tensor for each input, None for an absent one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gpucnn import limits
from gpucnn.autograd import Tensor
from gpucnn.errors import ParameterError, ShapeError
from gpucnn.onnx.graph import Node

Results = Tensor | tuple[Tensor, ...]
F = TypeVar("F", bound=Callable[..., Any])

MOST_BYTES = 2**29
"""The most bytes of a result."""
MOST_NUMBERS = 100_000
"""The most numbers of a shape, of axes, of pads or the like."""


@dataclass(frozen=True)
class Operator:
    """How an operator runs.

    least, most: how many inputs it takes. host: the positions of those that it reads as numbers, such as shapes. trained:
    the positions in which a constant is a weight. modes: whether training makes a difference, which it is then told.
    """

    run: Callable[..., Results]
    least: int
    most: int
    host: tuple[int, ...] = ()
    trained: tuple[int, ...] = ()
    modes: bool = False


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str, inputs: tuple[int, int] = (1, 1), host: tuple[int, ...] = (), trained: tuple[int, ...] = (),
    modes: bool = False,
) -> Callable[[F], F]:  # fmt: skip
    """Return a decorator that adds a function to the table."""

    def add(function: F) -> F:
        for name in names:
            OPERATORS[name] = Operator(function, *inputs, host, trained, modes)
        return function

    return add


def numbers(node: Node, argument: str, tensor: Tensor) -> list[Any]:
    """Return the numbers of a small tensor as a flat list."""
    if tensor.size > MOST_NUMBERS:
        raise node.expected(argument, f"at most {MOST_NUMBERS:,} numbers", f"{tensor.size:,}")
    return tensor.reshape(-1).tolist() if tensor.size else []


def whole_numbers(node: Node, argument: str, tensor: Tensor) -> tuple[int, ...]:
    """Return the integers of a small tensor."""
    if tensor.dtype.kind not in "iu":
        raise node.expected(argument, "integers", tensor.dtype)
    return tuple(numbers(node, argument, tensor))


def room_for(node: Node, shape: Sequence[int], itemsize: int = 4) -> tuple[int, ...]:
    """Return the shape of a result; ShapeError, before memory is taken, where it is negative or beyond the bound."""
    if any(n < 0 for n in shape):
        raise ShapeError.expected(node.place, "output shape", "lengths of 0 or more", tuple(shape))
    limits.check(f"{node.place}: output", "bytes", math.prod(shape) * itemsize, MOST_BYTES, ShapeError)
    return tuple(shape)


def axis_of(node: Node, value: int, ndim: int, argument: str = "axis") -> int:
    """Return an axis from 0 to ndim - 1, counted from the end where it is negative."""
    if not -ndim <= value < ndim:
        raise node.expected(argument, f"an axis from {-ndim} to {ndim - 1}", value)
    return value % ndim


def axes_of(node: Node, values: Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return axes from 0 to ndim - 1, each once."""
    axes = tuple(axis_of(node, value, ndim, "axes") for value in values)
    if len(set(axes)) != len(axes):
        raise node.expected("axes", "each axis once", values)
    return axes


def of_rank(node: Node, x: Tensor, *ranks: int) -> Tensor:
    """Return x; ShapeError unless it has one of these numbers of axes."""
    if x.ndim not in ranks:
        more = x.ndim > max(ranks) > 2
        remedy = "gpucnn has images and sequences, no volumes" if more else ""
        raise ShapeError.expected(
            node.place, "input", f"{' or '.join(map(str, ranks))} axes", f"shape {x.shape}", remedy
        )
    return x


def unsupported(node: Node, what: str) -> ParameterError:
    """Return the error about a variant of an operator that is not there."""
    return ParameterError(f"{node.place}: {what} is not supported.")
