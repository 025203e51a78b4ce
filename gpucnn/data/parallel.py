"""Work on many pieces of data: in threads, with a progress bar on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from typing import TypeVar

Item = TypeVar("Item")

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
    """Call ``work`` on each of ``items`` in so many threads; the first error, in their order, ends it.

    ``work`` returns how many of ``total`` pieces it has done, which a bar shows where there is something to say ``about``.

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
