"""The operations of a network as a list, from a run that is watched on the tape.

Every operation on tensors passes through the tape, of layers and of a user's own Module alike, so one mechanism covers all.
The network runs twice, with different numbers and, for a dynamic batch, a different number of images. What differs between
the runs and is not a multiple of the batch cannot be exported; the error names the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpucnn.autograd import Tensor, watching
from gpucnn.checks import is_integer
from gpucnn.errors import GpucnnError, ParameterError, kind_of
from gpucnn.nn import BatchNorm1d, BatchNorm2d, Module
from gpucnn.nn.module import evaluating


@dataclass(frozen=True)
class Batch:
    """A length that is a multiple of the number of images."""

    times: int = 1


@dataclass(frozen=True)
class Step:
    """One operation: its name, the numbers of the values it reads (None: absent) and makes, its parameters, its layer."""

    operation: str
    inputs: tuple[int | None, ...]
    output: int
    params: dict[str, Any]
    layer: str
    kind: str
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    dtype: str

    def refused(self, reason: str, remedy: str = "") -> ParameterError:
        """Return the error that this step, in this layer, cannot be exported."""
        place = f"layer {self.layer} ({self.kind})" if self.layer else self.kind
        return ParameterError(f"export: {place}: {reason}.", remedy=remedy)


@dataclass
class Trace:
    """The steps of one run, its constants by number, the names of those that are parameters or buffers, its outputs."""

    steps: list[Step]
    constants: dict[int, Tensor]
    names: dict[int, str]
    outputs: list[int]


class _Watcher:
    """Numbers the values of one run and notes its steps."""

    def __init__(self, net: Module, inputs: Sequence[Tensor]) -> None:
        self.trace = Trace([], {}, {}, [])
        self._net = net
        self._numbers: dict[int, int] = {}
        self._versions: dict[int, int] = {}
        self._kept: list[Any] = []  # an id is nobody else's for as long as its object lives
        self._stack: list[tuple[str, Module]] = []
        self._whole: Module | None = None
        self._named = {id(tensor.array): name for name, tensor in net._named_state()}
        for tensor in inputs:
            self._new(tensor)

    def _new(self, tensor: Tensor) -> int:
        number = len(self._kept)
        self._kept.append((tensor, tensor.array))
        self._numbers[id(tensor.array)] = number
        self._versions[number] = tensor.version.count
        return number

    def number_of(self, tensor: Any) -> int | None:
        """Return the number of a value; one that no step made is a constant."""
        if tensor is None:
            return None
        number = self._numbers.get(id(tensor.array))
        if number is None:
            number = self._new(tensor)
            self.trace.constants[number] = tensor
            if (name := self._named.get(id(tensor.array))) is not None:
                self.trace.names[number] = name
        elif self._versions[number] != tensor.version.count and number not in self.trace.constants:
            raise self.step("", (), tensor, {}).refused("a tensor is changed in place", "make a new one, x = x + value")
        return number

    def step(self, operation: str, inputs: tuple[int | None, ...], output: Tensor, params: dict[str, Any]) -> Step:
        path, module = self._stack[-1] if self._stack else ("", self._net)
        number = self._new(output) if operation else -1
        shapes = tuple(() if i is None else self._kept[i][0].shape for i in inputs)
        kind = type(module).__name__
        return Step(operation, inputs, number, params, path, kind, shapes, output.shape, str(output.dtype))

    def watch(self, operation: Callable[..., Any], tensors: Sequence[Any], params: dict[str, Any], result: Any) -> None:
        if self._whole is not None:
            return
        numbers = tuple(map(self.number_of, tensors))
        if all(number is None or number in self.trace.constants for number in numbers):
            self.trace.constants[self._new(result)] = result
            return
        name = f"{operation.__module__}.{operation.__qualname__}"
        self.trace.steps.append(self.step(name, numbers, result, params))

    def enter(self, path: str) -> Callable[[Module, tuple[Any, ...]], None]:
        def hook(module: Module, inputs: tuple[Any, ...]) -> None:
            self._stack.append((path, module))
            if self._whole is None and type(module) in WHOLE and module.running_mean is not None:  # type: ignore[attr-defined]
                self._whole = module

        return hook

    def leave(self, module: Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._whole is module:
            self._whole = None
            parts = (inputs[0], module.weight, module.bias, module.running_mean, module.running_var)  # type: ignore[attr-defined]
            numbers = tuple(map(self.number_of, parts))
            self.trace.steps.append(self.step("BatchNorm", numbers, output, {"eps": module.eps}))  # type: ignore[attr-defined]
        self._stack.pop()


WHOLE = (BatchNorm1d, BatchNorm2d)
"""Layers that are one operator of ONNX, though several operations here."""


def traced(net: Module, inputs: Sequence[Tensor]) -> Trace:
    """Return the steps of one run of ``net`` in evaluation mode."""
    watcher = _Watcher(net, inputs)
    with ExitStack() as stack:
        for path, module in net.named_modules():
            stack.enter_context(module.register_forward_pre_hook(watcher.enter(path)))
            stack.enter_context(module.register_forward_hook(watcher.leave))
        stack.enter_context(evaluating(net))
        stack.enter_context(watching(watcher.watch))
        result = net(*inputs)
    results = result if isinstance(result, (tuple, list)) else (result,)
    for one in results:
        if not isinstance(one, Tensor):
            raise ParameterError.expected("export", "output", "tensors", kind_of(one))
    numbers = [watcher.number_of(one) for one in results]
    watcher.trace.outputs = [number for number in numbers if number is not None]
    return watcher.trace


def merged(one: Trace, other: Trace, counts: tuple[int, int]) -> Trace:
    """Return the first of two traces, with ``Batch`` where they differ by the batch; ParameterError for other differences.

    counts: the number of images of each.
    """
    steps = []
    for first, second in zip(one.steps, other.steps, strict=False):
        if (first.operation, first.inputs, first.layer) != (second.operation, second.inputs, second.layer):
            raise first.refused("what it computes depends on the numbers that it is given")
        try:
            params = {name: _merged(value, second.params[name], counts) for name, value in first.params.items()}
            shape = _merged(first.shape, second.shape, counts)
        except _DiffersError:
            raise first.refused(
                "it computes with the number of images, or with numbers that are not on the tape", FIXED
            ) from None
        steps.append(replace(first, params=params, shape=shape))
        for number in first.inputs:
            if number in one.constants and not _same(one.constants[number], other.constants.get(number)):
                raise first.refused(
                    "it uses a value that depends on the input, or on the number of images, and is not on the tape",
                    FIXED,
                )
    if len(one.steps) != len(other.steps) or one.outputs != other.outputs:
        raise ParameterError("export: what the network computes depends on the numbers that it is given.")
    for number in one.outputs:
        if number in one.constants and not _same(one.constants[number], other.constants.get(number)):
            raise ParameterError("export: an output depends on the input in a way that is not on the tape.")
    return replace(one, steps=_used(steps, one.outputs))


def _used(steps: list[Step], outputs: Sequence[int]) -> list[Step]:
    """Return the steps that the outputs depend on."""
    wanted: set[int | None] = set(outputs)
    kept = []
    for step in reversed(steps):
        if step.output in wanted:
            kept.append(step)
            wanted |= set(step.inputs)
    return kept[::-1]


FIXED = "compute it with operations on tensors, or fix the batch: batch=N, --batch N"


class _DiffersError(GpucnnError):
    pass


def _merged(a: Any, b: Any, counts: tuple[int, int]) -> Any:
    if isinstance(a, (tuple, list)) and type(a) is type(b) and len(a) == len(b):
        parts = [_merged(x, y, counts) for x, y in zip(a, b, strict=True)]
        return tuple(parts) if isinstance(a, tuple) else parts
    if is_integer(a) and is_integer(b) and a != b:
        if a % counts[0] == 0 and b % counts[1] == 0 and a // counts[0] == b // counts[1] and counts[0] != counts[1]:
            return Batch(a // counts[0])
        raise _DiffersError
    if hasattr(a, "__array__") or hasattr(a, "get"):
        a_host, b_host = (np.asarray(x.get() if hasattr(x, "get") else x) for x in (a, b))
        if not np.array_equal(a_host, b_host):
            raise _DiffersError
        return a_host
    if isinstance(a, slice) and isinstance(b, slice):
        parts = [_merged(x, y, counts) for x, y in zip(_ends(a), _ends(b), strict=True)]
        return slice(*parts)
    if isinstance(a, float) and a != a and b != b:
        return a
    if type(a) is not type(b) or a != b:
        raise _DiffersError
    return a


def _ends(cut: slice) -> tuple[Any, Any, Any]:
    return cut.start, cut.stop, cut.step


def _same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and np.array_equal(a.numpy(), b.numpy(), equal_nan=a.dtype.kind == "f")
