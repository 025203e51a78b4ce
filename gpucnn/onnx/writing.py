"""Writing the nodes of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.onnx.reading import library
from gpucnn.onnx.tracing import Batch, Step


class Writer:
    """The nodes and constants of a graph that is being written, for one operator set."""

    def __init__(self, opset: int, first_input: str) -> None:
        self.opset, self._first = opset, first_input
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._used: set[str] = {first_input}
        self._known: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self.layer = ""

    def name(self, wanted: str) -> str:
        """Return a name for a value that no other has."""
        found, number = wanted, 1
        while found in self._used:
            number += 1
            found = f"{wanted}_{number}"
        self._used.add(found)
        return found

    def node(self, op: str, inputs: Sequence[str | None], results: int = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first result. Attributes that are None are left out."""
        return self.results(op, inputs, results, **attributes)[0]

    def results(self, op: str, inputs: Sequence[str | None], results: int, **attributes: Any) -> list[str]:
        """Add a node and return the names of its results."""
        label = self.name(f"{self.layer}/{op}" if self.layer else op)
        outputs = [label, *(self.name(f"{label}_output") for _ in range(results - 1))]
        given = [name or "" for name in inputs]
        while given and not given[-1]:
            given.pop()
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(library().helper.make_node(op, given, outputs, name=label, **kept))
        return outputs

    def end(self, value: str, wanted: str) -> str:
        """Give the value of the last node a name of the graph's interface, and return it."""
        out = self.name(wanted)
        if self.nodes and self.nodes[-1].output[0] == value:
            self.nodes[-1].output[0] = out
        else:
            self.nodes.append(library().helper.make_node("Identity", [value], [out], name=out))
        return out

    def constant(self, values: Any, dtype: str | None = None, name: str = "") -> str:
        """Return the name of a constant; equal ones without a name of their own are one."""
        array = np.ascontiguousarray(np.asarray(values, dtype))
        array = array.reshape(np.shape(values))
        key = (str(array.dtype), array.tobytes(), array.shape)
        if not name and array.size < 1000 and key in self._known:
            return self._known[key]
        label = self.name(name or f"{self.layer}/constant" if self.layer else name or "constant")
        self.initializers[label] = array
        if not name:
            self._known[key] = label
        return label

    def shape(self, lengths: Sequence[Any]) -> str:
        """Return the name of a shape: a constant, or computed from the batch where it has a ``Batch``."""
        if not any(isinstance(n, Batch) for n in lengths):
            return self.constant(list(lengths), "int64")
        whole = self.node("Shape", [self._first])
        count = self.node("Slice", [whole, self.constant([0], "int64"), self.constant([1], "int64")])
        parts = []
        for n in lengths:
            if not isinstance(n, Batch):
                parts.append(self.constant([n], "int64"))
            elif n.times == 1:
                parts.append(count)
            else:
                parts.append(self.node("Mul", [count, self.constant([n.times], "int64")]))
        return self.node("Concat", parts, axis=0)

    def reshape(self, x: str, lengths: Sequence[Any]) -> str:
        """Return x with another shape, in which a ``Batch`` is what is left."""
        if sum(isinstance(n, Batch) for n in lengths) == 1 and 0 not in lengths:
            return self.node(
                "Reshape", [x, self.constant([-1 if isinstance(n, Batch) else n for n in lengths], "int64")]
            )
        if 0 in lengths:
            return self.node("Reshape", [x, self.shape(lengths)], allowzero=1 if self.opset >= 14 else None)
        return self.node("Reshape", [x, self.shape(lengths)])

    def reduce(self, op: str, x: str, axes: Sequence[int], keepdims: bool) -> str:
        """Return a reduction, whose axes are an attribute or an input, as the operator set has it."""
        if not axes and op != "ReduceSum" and self.opset < 18:
            return self.node("Identity", [x])
        if op == "ReduceSum" or self.opset >= 18:
            given = [x, self.constant(list(axes), "int64")]
            return self.node(op, given, keepdims=int(keepdims), noop_with_empty_axes=1 if not axes else None)
        return self.node(op, [x], axes=list(axes), keepdims=int(keepdims))

    def add_axes(self, x: str, axes: Sequence[int]) -> str:
        return self.node("Unsqueeze", [x, self.constant(list(axes), "int64")])

    def drop_axes(self, x: str, axes: Sequence[int]) -> str:
        return self.node("Squeeze", [x, self.constant(list(axes), "int64")])


__all__ = ["Batch", "Step", "Writer"]
