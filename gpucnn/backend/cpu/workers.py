"""A pool of threads that share large kernels.

Small kernels do not use threads, because waking a core takes tens of microseconds (docs/performance.md). The split into
parts does not depend on the load of the machine, so the same number of threads gives the same bits.
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
"""Floating-point operations of a part that justify a thread: 0.5 to 1 millisecond."""


class Workers:
    """A pool of ``count`` - 1 threads, started at first use, and the caller's thread.

    While they work for one caller, other callers do all their work themselves. They end with this object.
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
        """Return ``work(part)`` for each part, in order. An exception in a part is raised when all parts are done.

        An interrupt of the waiting caller is raised at once. Busy threads then end after their work, and the next caller
        starts new ones.
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
                    del errors  # the traceback refers to this frame: a cycle would keep the arrays
            return results
        finally:
            if self._threads is not crew:
                for worker in crew:
                    worker.end()
            self._free.release()


def _enlarge(crew: list[Worker], count: int) -> None:
    """Add workers up to ``count``, or as many as the system allows: none while Python shuts down."""
    with contextlib.suppress(RuntimeError):
        while len(crew) < count:
            crew.append(Worker())


class Worker:
    """A thread that sleeps until it gets a task. Two locks dispatch faster than a queue."""

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
        """Wait until the task is done; return its exception, or None."""
        self._done.acquire()
        error, self._error = self._error, None
        return error

    def end(self) -> None:
        """End the thread after its current task."""
        self._ended = True
        if self._given.locked():  # else it is about to wake anyway
            self._given.release()

    def _live(self) -> None:
        while self._given.acquire() and not self._ended:
            assert self._task is not None
            try:
                with np.errstate(all="ignore"):  # as in the caller: NumPy's error state is per thread
                    self._task()
            except BaseException as error:
                self._error = error
            self._task = None  # frees the task's arrays
            self._done.release()


_all: weakref.WeakSet[Workers] = weakref.WeakSet()


def _forget_threads() -> None:
    """Drop the threads in a forked process, which has only the thread that forked."""
    for workers in _all:
        workers._threads, workers._free = [], threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
