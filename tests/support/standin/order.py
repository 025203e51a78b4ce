"""What is ordered after what: streams, events and the host, and the memory that copies from the host are made between.

Everything still runs at once, in the order of the calls. But each stream, each event and the host keeps a clock: how much of
each stream's work is done before what comes next there (Lamport's happens-before, as vector clocks). Where a copy and
other work touch one memory and neither waits for the other, a GPU may do them in either order: that is a Race here.
Memory that no copy of `ndarray.set` goes to is not watched.
"""

import dataclasses
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from . import capture

HOST = -1
NULL = 0
Clock = dict[int, int]


class Race(AssertionError):
    """A GPU may do two pieces of work in either order, and the result depends on it."""


def owner_of(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _merge(into: Clock, other: Clock) -> None:
    for key, time in other.items():
        into[key] = max(into.get(key, 0), time)


@dataclasses.dataclass
class Memory:
    """Device memory that copies from the host go to: when the last one was made, and who touched it since."""

    copied: tuple[int, int]
    touched: Clock
    alive: Any


@dataclasses.dataclass
class Sending:
    """A copy out of pinned memory that the host does not know to be done."""

    stream: int
    time: int
    source: "np.ndarray[Any, Any]"
    before: bytes


class Order:
    """The clocks of one process."""

    def __init__(self, current: Callable[[], int]) -> None:
        self._current = current  # the key of this thread's current stream
        self._clocks: dict[int, Clock] = {HOST: {}}
        self._keys = itertools.count(1)
        self._blocking: set[int] = set()
        self._memory: dict[int, Memory] = {}
        self._sending: list[Sending] = []
        self._pinned: dict[int, Any] = {}

    def new_stream(self, blocking: bool) -> int:
        key = next(self._keys)
        if blocking:
            self._blocking.add(key)
        return key

    def work(self, stream: int | None = None) -> Clock:
        """Put work on a stream; return its clock."""
        stream = self._current() if stream is None else stream
        clock = self._clocks.setdefault(stream, {})
        _merge(clock, self._clocks[HOST])
        for other in self._blocking if stream == NULL else ({NULL} if stream in self._blocking else ()):
            _merge(clock, self._clocks.get(other, {}))
        clock[stream] = clock.get(stream, 0) + 1
        return clock

    # Events and waits

    def record(self, stream: int) -> Clock:
        self._check_sources()
        return dict(self.work(stream))

    def wait(self, stream: int, event: Clock) -> None:
        self._check_sources()
        _merge(self.work(stream), event)

    def host_waits(self, clock: Clock | None = None) -> None:
        """The host waits for an event, or for everything."""
        self._check_sources()
        host = self._clocks[HOST]
        for one in self._clocks.values() if clock is None else [clock]:
            _merge(host, one)
        self._sending = [one for one in self._sending if host.get(one.stream, 0) < one.time]

    def host_waits_for_stream(self, stream: int | None = None) -> None:
        self.host_waits(self._clocks.get(self._current() if stream is None else stream, {}))

    # Memory

    def pin(self, array: "np.ndarray[Any, Any]") -> None:
        key = id(array)
        self._pinned[key] = weakref.ref(array, lambda _: self._pinned.pop(key, None))

    def is_pinned(self, array: "np.ndarray[Any, Any]") -> bool:
        return id(owner_of(array)) in self._pinned

    def access(self, array: "np.ndarray[Any, Any]") -> None:
        """Work on the current stream reads or writes an array (a graph's does when it is launched)."""
        if not self._memory:
            return
        if capture.current.graph is not None:
            capture.current.graph.touched.append(array)
            return
        memory = self._memory.get(id(owner_of(array)))
        if memory is None:
            return
        stream = self._current()
        clock = self.work(stream)
        copier, time = memory.copied
        if clock.get(copier, 0) < time:
            raise Race("work on memory that a copy goes to does not wait for the copy")
        memory.touched[stream] = clock[stream]

    def copy(self, to: "np.ndarray[Any, Any]", source: "np.ndarray[Any, Any]", stream: int | None) -> None:
        """A copy from the host is put on a stream."""
        self._check_sources()
        stream = self._current() if stream is None else stream
        clock, owner = self.work(stream), owner_of(to)
        key, here = id(owner), self._current()
        memory = self._memory.get(key)
        if memory is None:  # it may be memory that the work of this stream used until now
            touched = {here: self._clocks.get(here, {}).get(here, 0)}
            memory = Memory((stream, 0), touched, weakref.ref(owner, lambda _: self._memory.pop(key, None)))
        copier, time = memory.copied
        if any(clock.get(other, 0) < at for other, at in [*memory.touched.items(), (copier, time)]):
            raise Race("a copy does not wait for what used the memory that it goes to")
        memory.copied = stream, clock[stream]
        memory.touched = {}
        self._memory[key] = memory
        if self.is_pinned(source):
            self._sending.append(Sending(stream, clock[stream], source, source.tobytes()))

    def _check_sources(self) -> None:
        for one in self._sending:
            if one.source.tobytes() != one.before:
                self._sending.clear()
                raise Race("the host changed pinned memory while a copy out of it was under way")
