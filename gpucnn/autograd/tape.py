"""The tape: what was done, and how to undo it.

An operation at array level is

    op(backend, *arrays, needs=(bool, ...), **params) -> (y, backward | None)

``needs`` says which arrays need a gradient; ``backward(dy)`` returns one gradient per array (None where not needed) and
holds on to just what it needs for that. With nothing needed, None comes back and nothing is kept.

Nodes are numbered as they are made, so that falling numbers are a topological order: each node is walked once, after
everything that used its result, without recursion, and what it kept is freed as soon as it has been used.
"""

from __future__ import annotations

import functools
import heapq
import inspect
import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gpucnn.backend import Array, Backend, ops
from gpucnn.backend.dispatch import active
from gpucnn.errors import GraphError, MixedDeviceError, ParameterError, kind_of

if TYPE_CHECKING:
    from gpucnn.autograd.tensor import Tensor

Backward = Callable[[Array], Sequence[Array | None]]
Operation = Callable[..., tuple[Array, Backward | None]]

_thread = threading.local()
_numbers = itertools.count()


class no_grad:
    """Record nothing inside ``with no_grad():``, in this thread only; results then need no gradient.

    Or before a function, to record nothing while it runs: ``@no_grad()`` or ``@no_grad``.

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
        self._before: list[bool] = []  # one block may be entered again inside itself

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, run without recording."""
        if not callable(function):
            raise ParameterError.expected("no_grad", "function", "something to call", kind_of(function))
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


class Version:
    """How often a piece of memory was changed in place; tensors that share memory share it."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Node:
    """One recorded operation."""

    __slots__ = ("backward", "hooks", "name", "number", "sources", "versions")

    def __init__(
        self,
        name: str,
        backward: Backward,
        sources: Sequence[Node | Tensor | None],
        versions: Sequence[tuple[Version, int]],
    ) -> None:
        self.name = name
        self.backward: Backward | None = backward
        self.sources = sources
        self.versions = versions
        self.number = next(_numbers)
        self.hooks: list[Callable[[Array], Array | None]] = []

    def undo(self, gradient: Array) -> Sequence[Array | None]:
        """Return the gradients of the inputs and let go of everything kept for them."""
        if self.backward is None:
            raise GraphError(
                f"backward: the graph of {self.name} was used and freed. "
                "Run the forward pass again, or add the losses and call backward once."
            )
        for version, count in self.versions:
            if version.count != count:
                raise GraphError(
                    f"backward: a tensor that {self.name} used was changed in place afterwards, so its gradient would "
                    "be wrong. Change a copy (x.detach().clone()), or do it after backward()."
                )
        for hook in self.hooks:
            replacement = hook(gradient)
            gradient = gradient if replacement is None else replacement
        gradients = self.backward(gradient)
        self.free()
        return gradients

    def free(self) -> None:
        self.backward, self.sources, self.versions = None, (), ()


def walk(root: Node, gradient: Array, backend: Backend) -> None:
    """Carry ``gradient`` of the root's result back to every leaf.

    First gradients of parameters that an optimiser owns are copied into its memory together, at the end.
    """
    gradients: dict[int, Array] = {root.number: gradient}
    first: dict[int, tuple[Tensor, Array, Array]] = {}
    heap: list[tuple[int, Node]] = [(-root.number, root)]
    with active(backend):
        while heap:
            _, node = heapq.heappop(heap)
            sources = node.sources
            for source, passed in zip(sources, node.undo(gradients.pop(node.number)), strict=False):
                if source is None or passed is None:
                    continue
                if not isinstance(source, Node):
                    room = source.gradient_room()
                    if room is None:
                        source.accumulate_grad(passed)
                    elif id(source) in first:
                        first[id(source)] = (source, room, ops.add(backend, first[id(source)][2], passed))
                    else:
                        first[id(source)] = (source, room, passed)
                elif source.number in gradients:
                    gradients[source.number] = ops.add(backend, gradients[source.number], passed)
                else:
                    gradients[source.number] = passed
                    heapq.heappush(heap, (-source.number, source))
        if first:
            ops.copy_all(backend, [(room, passed) for _, room, passed in first.values()])
    for source, _, _ in first.values():
        source.fill_gradient_room()


def on_device_of(tensor: Any) -> AbstractContextManager[None]:
    """Within, the device of a Tensor is the current one: entered once for many operations rather than by each of them."""
    backend = getattr(tensor, "backend", None)
    return nullcontext() if backend is None else active(backend)


def apply(operation: Operation, first: Tensor, *others: Tensor | None, view: bool = False, **params: Any) -> Tensor:
    """Run an array-level operation on tensors and record how to undo it. None stands for an absent argument.

    ``view`` says that the result may share the first tensor's memory. MixedDeviceError where devices meet.
    """
    backend, tensors = first.backend, (first, *others)
    for tensor in others:
        if tensor is not None and tensor.backend is not backend:
            raise MixedDeviceError(
                f"{operation.__name__.lstrip('_')}: tensors on {backend.name} and {tensor.backend.name} met. "
                f"Move one with .to('{backend.name}')."
            )
    recording = is_grad_enabled()
    needs = tuple([recording and tensor is not None and tensor.requires_grad for tensor in tensors])
    with active(backend):
        y, backward = operation(backend, *[None if t is None else t.array for t in tensors], needs=needs, **params)
    if not y.ndim:
        y = y[...]  # NumPy gives a scalar, which cannot be changed in place, for an array of no dimensions
    result = first.like(y, shares_memory=view)
    if backward is not None:
        versions = [(t.version, t.version.count) for t in (*tensors, result) if t is not None]
        sources = [(t.node or t) if need and t is not None else None for t, need in zip(tensors, needs, strict=True)]
        result.node = Node(operation.__name__.lstrip("_"), backward, sources, versions)
        result.requires_grad = True
    return result
