"""Work on many pieces of data in threads: all at once with a progress bar, or in advance of the caller."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any, TypeVar

from gpucnn.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

BAR_AFTER = 0.5
"""Seconds that are passed without a progress bar."""

MOST_THREADS = 8


def cores() -> int:
    """Return the processors that this process may use, at most eight."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_THREADS, allowed)


def in_parallel(
    work: Callable[[Item], int], items: Sequence[Item], threads: int, total: int | None = None, about: str = ""
) -> None:
    """Call ``work`` on each of ``items`` in this many threads; the first error, in their order, ends it.

    ``work`` returns how many of ``total`` pieces it has done, which a progress bar shows if it has a title ``about``.

    >>> done = []
    >>> in_parallel(lambda i: done.append(i) or 1, [1, 2, 3], threads=2)
    >>> sorted(done)
    [1, 2, 3]
    """
    with ExitStack() as stack:
        results: Iterable[int] = map(work, items)
        if min(threads, len(items)) > 1:
            from concurrent.futures import ThreadPoolExecutor

            pool = stack.enter_context(ThreadPoolExecutor(threads))
            stack.callback(pool.shutdown, cancel_futures=True)  # after an error or Ctrl-C, what has not begun is left
            # Each with the caller's context, which says for instance whether bounds on files are lifted.
            results = pool.map(lambda task: task[0].run(work, task[1]), [(copy_context(), item) for item in items])
        if about:
            from tqdm import tqdm

            bar = stack.enter_context(
                tqdm(total=total, desc=about, unit=" images", leave=False, delay=BAR_AFTER, disable=None)
            )
            for done in results:
                bar.update(done)
        else:
            for _ in results:
                pass


def ahead(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``work`` of each of ``items``, in their order, computed by this many threads a few items in advance.

    Threads, not processes: Pillow and NumPy release the interpreter's lock while they decode and compute, nothing is copied
    between them, and MPI and CUDA are not forked. Without workers each item is computed when it is needed. An error of
    ``work`` is raised in the place of its result. When the caller stops, no further item is begun. DataError in a process
    that was forked in between, because threads do not survive a fork.

    >>> list(ahead(lambda i: i * i, [1, 2, 3], workers=2))
    [1, 4, 9]
    """
    if not workers:
        yield from map(work, items)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    owner = os.getpid()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="gpucnn-worker")
    due: deque[Future[Any]] = deque()
    try:
        for item in items:
            # Each with the caller's context, which says for instance whether bounds on files are lifted.
            due.append(pool.submit(copy_context().run, work, item))
            if len(due) > workers + 1:
                yield _taken(due, owner)
        while due:
            yield _taken(due, owner)
    finally:
        if os.getpid() == owner:
            pool.shutdown(cancel_futures=True)


def _taken(due: deque[Any], owner: int) -> Any:
    if os.getpid() != owner:
        raise DataError.expected(
            "loader", "workers", f"the process {owner}, which began the epoch", f"{os.getpid()}, forked from it",
            "begin the epoch after the fork",
        )  # fmt: skip
    result = due.popleft().result()
    return result
