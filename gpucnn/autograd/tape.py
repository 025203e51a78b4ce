"""The tape: it records operations and computes gradients by the chain rule, backwards.

An operation on arrays has the form

    op(backend, *arrays, requires_grad=(bool, ...), **params) -> (y, backward | None)

``requires_grad`` says which arrays require a gradient. ``backward(dy)`` returns one gradient per array (None where none is
needed) and keeps only what it uses. If no array needs a gradient, the operation returns None and keeps nothing.

Nodes are numbered in the order of creation, so decreasing numbers are a topological order. ``backpropagate`` visits each
node once, after all nodes that used its result, without recursion, and frees what the node kept as soon as it is used.
"""

from __future__ import annotations

import functools
import heapq
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Protocol, TypeVar

from gpucnn.autograd.values import Values
from gpucnn.backend import Array, Backend, ops
from gpucnn.backend.dispatch import active, is_current
from gpucnn.errors import DTypeError, GraphError, MixedDeviceError, ParameterError, ShapeError, kind_of

Backward = Callable[[Array], Sequence[Array | None]]
Operation = Callable[..., tuple[Array, Backward | None]]

_thread = threading.local()
_numbers = itertools.count()


class no_grad:
    """Disable recording within ``with no_grad():``, in this thread only. Results then require no gradient.

    As a decorator, ``@no_grad()`` or ``@no_grad``, it disables recording while the function runs.

    >>> import gpucnn
    >>> x = gpucnn.tensor([1.0], requires_grad=True)
    >>> with no_grad():
    ...     (x * 2).requires_grad
    False
    """

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        made = super().__new__(cls)
        if function is None:
            return made
        made._before = []
        return made(function)

    def __init__(self) -> None:
        self._before: list[bool] = []  # a stack: a block may be nested in itself

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function`` wrapped to run without recording."""
        if not callable(function):
            raise ParameterError.expected("no_grad", "function", "a callable", kind_of(function))
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generate(*arguments: Any, **options: Any) -> Any:
                steps = function(*arguments, **options)
                while True:
                    with no_grad():
                        try:
                            step = next(steps)
                        except StopIteration as end:
                            return end.value
                    yield step

            return generate

        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            with no_grad():
                return function(*arguments, **options)

        return run

    def __enter__(self) -> None:
        self._before.append(is_grad_enabled())
        _thread.disabled = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _thread.disabled = not self._before.pop()


def is_grad_enabled() -> bool:
    """Return whether this thread records operations."""
    return not getattr(_thread, "disabled", False)


Watch = Callable[[Operation, Sequence[Any], dict[str, Any], Any], None]
"""Called with an operation, the tensors it was applied to, its parameters and its result."""


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Call ``watch`` after each operation of this thread within the block: a trace of what a network computes."""
    before = getattr(_thread, "watch", None)
    _thread.watch = watch
    try:
        yield
    finally:
        _thread.watch = before


def is_watched() -> bool:
    """Return whether the operations of this thread are watched."""
    return getattr(_thread, "watch", None) is not None


class Version:
    """The number of in-place changes of a piece of memory. Tensors that share memory share it."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Recorded(Protocol):
    """What the tape needs of a Tensor, whose module is above this one."""

    array: Array
    backend: Backend
    requires_grad: bool
    node: Node | None
    version: Version

    def like(self, array: Array, shares_memory: bool = False) -> Any: ...
    def gradient_room(self) -> Array | None: ...
    def fill_gradient_room(self) -> None: ...
    def accumulate_grad(self, gradient: Array) -> None: ...


T = TypeVar("T", bound=Recorded)


def refuse_lost_gradient(value: Recorded, where: str) -> None:
    """Raise GraphError if writing ``value`` into another tensor's memory would silently lose its gradient."""
    if value.requires_grad and is_grad_enabled():
        raise GraphError(
            f"{where}: the value takes part in gradients, and writing it into a tensor would lose them. "
            "Make a new tensor (x = x + value), or write value.detach()."
        )


def check_gradient(tensor: Values, gradient: Any, where: str, argument: str) -> None:
    """Raise unless ``gradient`` is a Tensor of the shape, dtype and device of ``tensor``."""
    if not isinstance(gradient, Values):
        raise DTypeError.expected(where, argument, "a Tensor", kind_of(gradient), "wrap it in gpucnn.tensor(...)")
    if gradient.backend is not tensor.backend:
        raise MixedDeviceError.expected(where, argument, f"a tensor on {tensor.backend.name}", gradient.backend.name)
    if gradient.array.shape != tensor.array.shape:
        raise ShapeError.expected(where, argument, f"shape {tensor.array.shape}", gradient.array.shape)
    if gradient.array.dtype != tensor.array.dtype:
        raise DTypeError.expected(where, argument, f"dtype {tensor.array.dtype}", gradient.array.dtype)


class Node:
    """One recorded operation."""

    __slots__ = ("backward", "hooks", "name", "number", "sources", "versions")

    def __init__(
        self,
        name: str,
        backward: Backward,
        sources: Sequence[Node | Recorded | None],
        versions: Sequence[tuple[Version, int]],
    ) -> None:
        self.name = name
        self.backward: Backward | None = backward
        self.sources = sources
        self.versions = versions
        self.number = next(_numbers)
        self.hooks: list[Callable[[Array], Array | None]] = []

    def vjp(self, gradient: Array) -> Sequence[Array | None]:
        """Return the vector-Jacobian product, the gradients of the inputs, and free everything kept for it."""
        if self.backward is None:
            raise GraphError(
                f"backward: the graph of {self.name} has already been used and freed. "
                "Run the forward pass again, or add the losses and call backward once."
            )
        for version, count in self.versions:
            if version.count != count:
                raise GraphError(
                    f"backward: a tensor that {self.name} used was changed in place afterwards, so its gradient would "
                    "be wrong. Change a copy (x.detach().clone()), or change it after backward()."
                )
        for hook in self.hooks:
            replacement = hook(gradient)
            gradient = gradient if replacement is None else replacement
        gradients = self.backward(gradient)
        self.free()
        return gradients

    def free(self) -> None:
        self.backward, self.sources, self.versions = None, (), ()


def backpropagate(root: Node, gradient: Array, backend: Backend) -> None:
    """Propagate ``gradient``, that of the root's result, back to every leaf.

    Parameters in a store receive their first gradients together, at the end, in one copy into the store's memory.
    """
    gradients: dict[int, Array] = {root.number: gradient}
    first: dict[int, tuple[Recorded, Array, Array]] = {}
    heap: list[tuple[int, Node]] = [(-root.number, root)]
    with active(backend):
        while heap:
            _, node = heapq.heappop(heap)
            sources = node.sources
            for source, passed in zip(sources, node.vjp(gradients.pop(node.number)), strict=False):
                if source is None or passed is None:
                    continue
                if not isinstance(source, Node):
                    buffer = source.gradient_room()
                    if buffer is None:
                        source.accumulate_grad(passed)
                    elif id(source) in first:
                        first[id(source)] = (source, buffer, ops.add(backend, first[id(source)][2], passed))
                    else:
                        first[id(source)] = (source, buffer, passed)
                elif source.number in gradients:
                    gradients[source.number] = ops.add(backend, gradients[source.number], passed)
                else:
                    gradients[source.number] = passed
                    heapq.heappush(heap, (-source.number, source))
        if first:
            ops.copy_all(backend, [(buffer, passed) for _, buffer, passed in first.values()])
    for source, _, _ in first.values():
        source.fill_gradient_room()


def on_device_of(tensor: Any) -> AbstractContextManager[None]:
    """Make a Tensor's device current within the block, once for many operations rather than for each of them."""
    backend = getattr(tensor, "backend", None)
    return nullcontext() if backend is None else active(backend)


def apply(operation: Operation, first: T, *others: Recorded | None, view: bool = False, **params: Any) -> T:
    """Run an operation on the tensors' arrays and record its backward. None stands for an absent argument.

    ``view``: the result may share the first tensor's memory. MixedDeviceError if the tensors are on different devices.
    """
    backend, tensors = first.backend, (first, *others)
    enabled = is_grad_enabled()
    requires_grad: list[bool] = []
    arrays: list[Array | None] = []
    for tensor in tensors:
        if tensor is None:
            requires_grad.append(False)
            arrays.append(None)
            continue
        if tensor.backend is not backend:
            raise MixedDeviceError(
                f"{operation.__name__.lstrip('_')}: the tensors are on {backend.name} and {tensor.backend.name}. "
                f"Move one with .to('{backend.name}')."
            )
        requires_grad.append(enabled and tensor.requires_grad)
        arrays.append(tensor.array)
    if is_current(backend):  # the usual case within a network; a context manager costs half a microsecond
        y, backward = operation(backend, *arrays, requires_grad=tuple(requires_grad), **params)
    else:
        with active(backend):
            y, backward = operation(backend, *arrays, requires_grad=tuple(requires_grad), **params)
    if not y.ndim:
        y = y[...]  # NumPy returns a scalar, which cannot be changed in place, instead of a 0-d array
    result: T = first.like(y, shares_memory=view)
    if backward is not None:
        versions = [(t.version, t.version.count) for t in (*tensors, result) if t is not None]
        sources = [
            (t.node or t) if need and t is not None else None for t, need in zip(tensors, requires_grad, strict=True)
        ]
        result.node = Node(operation.__name__.lstrip("_"), backward, sources, versions)
        result.requires_grad = True
    watch = getattr(_thread, "watch", None)
    if watch is not None:
        watch(operation, tensors, params, result)
    return result
