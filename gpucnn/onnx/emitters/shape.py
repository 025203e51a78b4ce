"""Movement of elements, indexing, and reductions."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.onnx.emitters.elementwise import OPERATIONS
from gpucnn.onnx.emitters.registry import emits
from gpucnn.onnx.tracing import Batch, Step
from gpucnn.onnx.writing import Writer

LAST = 2**31 - 1
"""The end of any axis, as Slice writes it."""


@emits(f"{OPERATIONS}.reshape")
def reshape(w: Writer, step: Step, x: str) -> str:
    return w.reshape(x, step.params["shape"])


@emits(f"{OPERATIONS}.transpose")
def transpose(w: Writer, step: Step, x: str) -> str:
    return w.node("Transpose", [x], perm=list(step.params["axes"]))


@emits(f"{OPERATIONS}.broadcast")
def broadcast(w: Writer, step: Step, x: str) -> str:
    return w.node("Expand", [x, w.shape(step.params["shape"])])


@emits(f"{OPERATIONS}.concatenation")
def concatenation(w: Writer, step: Step, *inputs: str) -> str:
    return w.node("Concat", inputs, axis=step.params["axis"])


@emits(*(f"{OPERATIONS}.{name}" for name in ("sum", "mean", "maximum", "minimum")))
def reduction(w: Writer, step: Step, x: str) -> str:
    ops = {"sum": "ReduceSum", "mean": "ReduceMean", "maximum": "ReduceMax", "minimum": "ReduceMin"}
    return w.reduce(ops[step.operation.rpartition(".")[2]], x, step.params["axes"], step.params["keepdims"])


@emits(f"{OPERATIONS}.argmax")
def argmax(w: Writer, step: Step, x: str) -> str:
    axis = step.params["axis"]
    if axis is None:
        flat = w.node("Reshape", [x, w.constant([-1], "int64")])
        return w.node("ArgMax", [flat], axis=0, keepdims=0)
    return w.node("ArgMax", [x], axis=axis, keepdims=0)


@emits(f"{OPERATIONS}.index")
def index(w: Writer, step: Step, x: str) -> str:
    """x[...]: slices and numbers as Slice and Squeeze, new axes as Unsqueeze, one array of indices as Gather."""
    key = step.params["key"]
    parts = list(key) if isinstance(key, tuple) else [key]
    shape = step.shapes[0]
    if any(isinstance(part, np.ndarray) and part.dtype.kind == "b" for part in parts):
        raise step.refused("an index of booleans gives a result of another length each time")
    if any(part is Ellipsis for part in parts):
        place = next(i for i, part in enumerate(parts) if part is Ellipsis)
        given = sum(part is not None and part is not Ellipsis for part in parts)
        parts[place : place + 1] = [slice(None)] * (len(shape) - given)
    arrays = [part for part in parts if isinstance(part, np.ndarray) and part.ndim]
    if len(arrays) > 1:
        return _elements(w, step, x, parts)
    cuts: list[tuple[int, int, int, int]] = []
    numbers: list[int] = []
    added: list[int] = []
    axis, chosen = 0, None
    for part in parts:
        if part is None:
            added.append(axis - len(numbers) + len(added))
            continue
        if isinstance(part, slice):
            _cut(step, cuts, axis, part, shape[axis])
        elif isinstance(part, np.ndarray) and part.ndim:
            chosen = (axis, part)
        else:
            at = int(part)
            cuts.append((axis, at, at + 1 if at != -1 else LAST, 1))
            numbers.append(axis)
        axis += 1
    if cuts:
        axes, starts, ends, steps = ([cut[i] for cut in cuts] for i in range(4))
        x = w.node("Slice", [x, *(w.constant(values, "int64") for values in (starts, ends, axes, steps))])
    if chosen is not None:
        x = w.node("Gather", [x, w.constant(chosen[1], "int64")], axis=chosen[0])
        if numbers:
            raise step.refused("an index of numbers and an array")
    if numbers:
        x = w.drop_axes(x, numbers)
    return w.add_axes(x, added) if added else x


def _cut(step: Step, cuts: list[tuple[int, int, int, int]], axis: int, part: slice, length: int) -> None:
    """Note what Slice needs for a slice of Python; nothing for a whole axis."""
    if isinstance(part.start, Batch) or isinstance(part.stop, Batch):
        raise step.refused("a slice ends with the number of images", "fix the batch: batch=N, --batch N")
    if part == slice(None) or (axis and part.indices(length) == (0, length, 1)):
        return
    stride = 1 if part.step is None else int(part.step)
    if stride > 0:
        start, stop = part.start or 0, LAST if part.stop is None else part.stop
    else:
        start, stop = LAST if part.start is None else part.start, -LAST if part.stop is None else part.stop
    cuts.append((axis, int(start), int(stop), stride))


def _elements(w: Writer, step: Step, x: str, parts: list[Any]) -> str:
    """x[i, j, ...] with an array of indices for each of the first axes: GatherND."""
    if not all(isinstance(part, np.ndarray) for part in parts):
        raise step.refused("an index of several arrays with slices between them")
    lengths = step.shapes[0]
    places = [np.where(p < 0, p + n, p) for p, n in zip(parts, lengths, strict=False)]
    return w.node("GatherND", [x, w.constant(np.stack(np.broadcast_arrays(*places), -1), "int64")])
