"""Sharing a kernel's work among threads, with the BLAS at one thread meanwhile.

A kernel cuts its work into parts by the number of threads alone, so that the result has the same bits whether the parts
run side by side or, when another thread of the user is inside a kernel, one after the other.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

from gpucnn.errors import ParameterError

Task = Callable[[int], None]


def available_threads() -> int:
    """Return ``GPUCNN_THREADS``, or else the number of cores that this process may use."""
    asked = os.environ.get("GPUCNN_THREADS", "")
    if not asked:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise ParameterError.expected("GPUCNN_THREADS", "value", "a positive whole number", repr(asked))
    return int(asked)


class Team:
    """The calling thread and its helpers, who wait between kernels."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._jobs: list[queue.SimpleQueue[tuple[Task, int]]] = []
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._process = os.getpid()
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._before: list[int] = []
        self._inside = 0
        self._inside_lock = threading.Lock()

    def run(self, task: Task) -> None:
        """Call ``task(part)`` for every part from 0 to count - 1 and wait for all; raises what a part raised."""
        with self.one_blas_thread():
            if self.count == 1 or not self._lock.acquire(blocking=False):
                for part in range(self.count):
                    task(part)
                return
            try:
                self._share(task)
            finally:
                self._lock.release()

    def _share(self, task: Task) -> None:
        if self._process != os.getpid() or not self._jobs:
            self._start()
        for part, jobs in enumerate(self._jobs, 1):
            jobs.put((task, part))
        errors: list[BaseException | None] = []
        try:
            task(0)
        finally:  # helpers write into the caller's buffers: never leave before they are done
            errors = [self._done.get() for _ in self._jobs]
        for error in errors:
            if error is not None:
                raise error

    def _start(self) -> None:
        """Start the helpers; again in a forked process, where only the calling thread lives on."""
        self._process, self._done = os.getpid(), queue.SimpleQueue()
        self._jobs = [queue.SimpleQueue() for _ in range(self.count - 1)]
        for number, jobs in enumerate(self._jobs, 1):
            threading.Thread(target=_work, args=(jobs, self._done), name=f"gpucnn-{number}", daemon=True).start()

    @contextmanager
    def one_blas_thread(self) -> Iterator[None]:
        """Keep the BLAS at one thread; the outermost of all threads' uses sets it back."""
        with self._inside_lock:
            self._inside += 1
            if self._inside == 1:
                self._before = [library.get_num_threads() for library in self._libraries]
                self._set_blas([1] * len(self._libraries))
        try:
            yield
        finally:
            with self._inside_lock:
                self._inside -= 1
                if self._inside == 0:
                    self._set_blas(self._before)

    def blas(self) -> list[str]:
        """Return the name and version of each BLAS library in the process."""
        return [f"{library.internal_api} {library.version}" for library in self._libraries]

    def _set_blas(self, counts: list[int]) -> None:
        for library, count in zip(self._libraries, counts, strict=True):
            library.set_num_threads(count)


def _work(jobs: queue.SimpleQueue[Any], done: queue.SimpleQueue[BaseException | None]) -> None:
    while True:
        task, part = jobs.get()
        try:
            task(part)
        except BaseException as error:
            done.put(error)
        else:
            done.put(None)
        del task  # its buffers must not live until the next job


def share(total: int, part: int, parts: int) -> range:
    """Return the indices of 0..total-1 that fall to ``part``: neighbouring ones, evenly.

    >>> [list(share(5, part, 2)) for part in range(2)]
    [[0, 1], [2, 3, 4]]
    """
    return range(total * part // parts, total * (part + 1) // parts)
