"""The dispatcher: it chooses which implementation of an operation runs.

An operation is a function ``conv2d(device, x, w, b, window, groups)`` on arrays. Its reference, decorated with
``@operation``, is written once on the device's array module (``backend/ops``) and handles every case. A faster
implementation has the same signature. It is registered for one kind of device, with the condition under which it serves:

    @implements(ops.conv2d, on="cuda", when=serves_convolution)
    def conv2d(device, x, w, b, window, groups=1): ...

A call runs the first implementation that serves, or else the reference. Where there is a choice, it counts in
``device.ran`` which one ran (``"conv2d.fast"``, ``"conv2d.reference"``). It makes the device the current one. If the
operation widens, float16 arrays are passed as float32 and the results are rounded back. So sums never run in 16 bits, and
every device computes float16 with its float32 implementations.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import numpy as np

from gpucnn.backend.precision import FLOAT, is_half, narrowed

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")

Condition = Callable[..., bool]
Function = Callable[..., Any]


class Launcher(Protocol):
    """The part of a device that the dispatcher uses."""

    kind: str
    ran: Counter[str]

    def enter(self) -> AbstractContextManager[Any]:
        """Return the context manager that makes this device the current one of its array module."""
        ...


class _Thread(threading.local):
    device: Launcher | None = None
    """The device that is current in this thread."""


_current = _Thread()


class active:
    """Make a device the current one, unless it already is. Each operation does so; the tape does so once for many."""

    __slots__ = ("_before", "_device", "_entered")

    def __init__(self, device: Launcher) -> None:
        self._device = device

    def __enter__(self) -> None:
        self._before = _current.device
        if self._before is not self._device:
            self._entered = self._device.enter()
            self._entered.__enter__()
            _current.device = self._device

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._before is self._device:
            return None
        _current.device = self._before
        return self._entered.__exit__(kind, error, trace)


def is_current(device: Launcher) -> bool:
    """Whether a device is the current one of this thread."""
    return _current.device is device


OPERATIONS: dict[str, Any] = {}
"""All operations, by name."""


class Operation(Generic[P, R]):
    """An operation, called like its reference.

    widens: whether float16 arrays are passed as float32, which reductions over several elements need, except to
    implementations that widen them where they are read. keeps: the positions of the results that then stay float32.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], R], widens: bool, keeps: tuple[int, ...]) -> None:
        self.name = self.__name__ = function.__name__
        self.__doc__, self.__module__, self.__wrapped__ = function.__doc__, function.__module__, function
        self.function = function
        self.widens, self._keeps = widens, keeps
        self.implementations: dict[str, list[tuple[Condition | None, Function]]] = {}
        self.reads_half: set[Function] = set()
        """The implementations that take float16 arrays themselves, although the operation widens."""
        self._fast, self._reference = f"{self.name}.fast", f"{self.name}.reference"
        if self.name in OPERATIONS:
            raise ValueError(f"operation: the name {self.name!r} is registered twice.")
        OPERATIONS[self.name] = self

    def __repr__(self) -> str:
        return f"<operation {self.name}>"

    def __call__(self, device: Launcher, *arguments: P.args, **named: P.kwargs) -> R:
        if _current.device is not device:
            with active(device):
                return self(device, *arguments, **named)
        if self.widens and arguments[0].dtype is not FLOAT and is_half(arguments[0]):  # type: ignore[attr-defined]
            return self._of_half(device, arguments, named)
        if self.implementations:  # otherwise there is no choice, and nothing to count
            for serves, function in self.implementations.get(device.kind, ()):
                if not named:  # the usual case; skipping the empty dict makes it 10 % cheaper
                    if serves is None or serves(device, *arguments):
                        device.ran[self._fast] += 1
                        return function(device, *arguments)  # type: ignore[no-any-return]
                elif serves is None or serves(device, *arguments, **named):
                    device.ran[self._fast] += 1
                    return function(device, *arguments, **named)  # type: ignore[no-any-return]
            device.ran[self._reference] += 1
        return self.function(device, *arguments, **named)

    def reference(self, device: Launcher, *arguments: P.args, **named: P.kwargs) -> R:
        """Call the reference, even where a faster implementation serves."""
        if _current.device is not device:
            with active(device):
                return self.reference(device, *arguments, **named)
        if self.widens and arguments[0].dtype is not FLOAT and is_half(arguments[0]):  # type: ignore[attr-defined]
            return self._widened(self.reference, device, arguments, named)
        device.ran[self._reference] += 1
        return self.function(device, *arguments, **named)

    def _of_half(self, device: Launcher, arguments: Any, named: Any) -> R:
        for serves, function in self.implementations.get(device.kind, ()):
            if function in self.reads_half and (serves is None or serves(device, *arguments, **named)):
                device.ran[self._fast] += 1
                return function(device, *arguments, **named)  # type: ignore[no-any-return]
        return self._widened(self, device, arguments, named)

    def _widened(self, call: Callable[..., R], device: Launcher, arguments: Any, named: Any) -> R:
        wide = [one.astype(np.float32) if is_half(one) else one for one in arguments]
        result: Any = call(device, *wide, **named)
        if not isinstance(result, tuple):
            return narrowed(result)  # type: ignore[no-any-return]
        return tuple(one if i in self._keeps else narrowed(one) for i, one in enumerate(result))  # type: ignore[return-value]


def operation(
    *, widens: bool = False, keeps: tuple[int, ...] = ()
) -> Callable[[Callable[Concatenate[Any, P], R]], Operation[P, R]]:
    """Return a decorator that makes a reference function an operation."""
    return lambda function: Operation(function, widens, keeps)


def array_function(name: str, doc: str, function: str | None = None, **fixed: Any) -> Operation[..., Any]:
    """Return an operation that calls a function of the array module: ``function``, by default the one called ``name``."""
    function = function or name

    def call(device: Any, *arguments: Any) -> Any:
        return getattr(device.xp, function)(*arguments, **fixed)

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return Operation(call, False, ())


def implements(
    operation: Operation[P, R], *, on: str, when: Condition | None = None, first: bool = False, half: bool = False
) -> Callable[[Callable[Concatenate[D, P], R]], Callable[Concatenate[D, P], R]]:
    """Register an implementation for devices of the kind ``on``. Those registered earlier are tried first, except ``first``.

    when: called with the same arguments; returns whether the implementation serves this case. None: it serves every case.
    half: of an operation that widens, whether this implementation takes float16 arrays as they are; its results are then
    those that the operation has.
    """

    def announce(function: Callable[Concatenate[D, P], R]) -> Callable[Concatenate[D, P], R]:
        known = operation.implementations.setdefault(on, [])
        known.insert(0 if first else len(known), (when, function))
        if half:
            operation.reads_half.add(function)
        return function

    return announce
