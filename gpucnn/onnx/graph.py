"""A network as ONNX describes it: nodes in the order in which they run, and constant values, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from numpy.typing import NDArray

from gpucnn.checks import is_integer, shown
from gpucnn.errors import ParameterError, shortened

Constant = NDArray[Any]
Int = int
"""The type: ``Node`` has a method of that name."""


@dataclass(frozen=True)
class Node:
    """One operation: its operator, the names of the values it reads ("" for an absent one) and writes, its attributes.

    version: the operator set that the file imports. The methods return attributes; ParameterError, which names the node,
    for one that is missing or of another type.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    version: Int = 0

    @property
    def place(self) -> str:
        """The description of the node in messages."""
        label = self.name or next(iter(self.outputs), "")
        return f"node {shortened(label, 60)!r} ({shortened(self.op, 40)})"

    def expected(self, argument: str, words: str, got: Any, remedy: str = "") -> ParameterError:
        """Return an error about an attribute or input of this node."""
        return ParameterError.expected(self.place, argument, words, got, remedy)

    def int(self, name: str, default: Any = None) -> Int:
        value = self.attributes.get(name, default)
        if not is_integer(value):
            raise self.expected(name, "an int", "none" if value is None else shown(value))
        return cast(Int, value)

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.int(name, Int(default)))

    def float(self, name: str, default: float | None = None) -> float:
        value = self.attributes.get(name, default)
        if not isinstance(value, float):
            raise self.expected(name, "a float", "none" if value is None else shown(value))
        return value

    def text(self, name: str, default: str | None = None, choices: tuple[str, ...] = ()) -> str:
        value = self.attributes.get(name, default)
        if not isinstance(value, str) or (choices and value not in choices):
            raise self.expected(name, " or ".join(choices) or "text", "none" if value is None else shown(value))
        return value

    def ints(self, name: str, default: tuple[Int, ...] | None = None, count: Int | None = None) -> tuple[Int, ...]:
        """Return several ints; ``count``: how many there must be."""
        value = self.attributes.get(name, default)
        if not isinstance(value, tuple) or not all(map(is_integer, value)) or count not in (None, len(value)):
            words = "ints" if count is None else f"{count} ints"
            raise self.expected(name, words, "none" if value is None else shown(value))
        return value


@dataclass(frozen=True)
class Value:
    """An input or output: its name, its dtype as NumPy names it, its shape (None: any rank; an axis of any length)."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """Nodes in the order in which they run, constants by name, inputs and outputs, and the file's own strings."""

    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    version: int
    metadata: dict[str, str]
