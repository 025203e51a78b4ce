"""Threads that take a part of a large kernel each.

Small kernels are not for threads: waking a core takes tens of microseconds (docs/performance.md). Parts do not depend on
how busy the machine is, so the same number of threads gives the same bits.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

LEAST_PART = 25e6
"""Floating-point operations from which a part is worth a thread: half a millisecond to a whole one."""


class Workers:
    """``count`` - 1 threads, made when they are first needed, and the caller's own.

    While they work for one caller, another does all of its work itself. They end with this object.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = threading.Lock()
        self._threads: list[Worker] = []
        _all.add(self)

    def __del__(self) -> None:
        for worker in self._threads:
            worker.end()

    def run(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """Return ``work`` of each of the parts, in their order. What one raises is raised, once all are done.

        An interrupt of the caller while it waits comes at once: threads that are at work then end when that is done, and
        others are made for the next caller.
        """
        if len(parts) < 2 or not self._free.acquire(blocking=False):
            return [work(part) for part in parts]
        crew, self._threads = self._threads, []
        try:
            _enlarge(crew, min(len(parts), self.count) - 1)
            shares: list[list[int]] = [[] for _ in range(len(crew) + 1)]
            for i in range(len(parts)):
                shares[i % len(shares)].append(i)
            results: list[Any] = [None] * len(parts)

            def take(mine: list[int]) -> None:
                for i in mine:
                    results[i] = work(parts[i])

            for worker, mine in zip(crew, shares[1:], strict=True):
                worker.start(partial(take, mine))
            try:
                take(shares[0])
            finally:
                errors = list(filter(None, [worker.wait() for worker in crew]))
                self._threads = crew
            if errors:
                try:
                    raise errors[0]
                finally:
                    del errors  # the traceback knows this frame: together they would keep the arrays
            return results
        finally:
            if self._threads is not crew:
                for worker in crew:
                    worker.end()
            self._free.release()


def _enlarge(crew: list[Worker], count: int) -> None:
    """Add workers until there are ``count``, or as many as the system lets us have: none while Python shuts down."""
    with contextlib.suppress(RuntimeError):
        while len(crew) < count:
            crew.append(Worker())


class Worker:
    """A thread that sleeps until it is given something to do. Two locks hand over faster than a queue."""

    def __init__(self) -> None:
        self._given, self._done = threading.Lock(), threading.Lock()
        self._given.acquire()
        self._done.acquire()
        self._task: Callable[[], None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        threading.Thread(target=self._live, name="gpucnn kernel", daemon=True).start()

    def start(self, task: Callable[[], None]) -> None:
        self._task = task
        self._given.release()

    def wait(self) -> BaseException | None:
        """Wait until the task is done; return what it raised."""
        self._done.acquire()
        error, self._error = self._error, None
        return error

    def end(self) -> None:
        """Let the thread go, when it is done with what it does."""
        self._ended = True
        if self._given.locked():  # else it is about to wake anyway
            self._given.release()

    def _live(self) -> None:
        while self._given.acquire() and not self._ended:
            assert self._task is not None
            try:
                with np.errstate(all="ignore"):  # as the caller has it: NumPy keeps this for each thread
                    self._task()
            except BaseException as error:
                self._error = error
            self._task = None  # and with it, the arrays it holds on to
            self._done.release()


_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def _forget_threads() -> None:
    """In a forked process there are no threads but the one that forked."""
    for workers in _all:
        workers._threads, workers._free = [], threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
