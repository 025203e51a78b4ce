"""The communicator of a single process. Those of MPI and NCCL derive from it.

Sums are computed in a binary tree over the ranks, ((0 + 1) + (2 + 3)) + .... Each sum is computed once and its result is
sent on, so every process gets the same bits. If each process first sums its own subtree of a larger tree (ranks hold
aligned runs of shards), the bits do not depend on the number of processes. Addition is commutative, so either partner may
add; it is not associative, so the tree must stay the same.
"""

from __future__ import annotations

import socket
import sys
import time
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from gpucnn.backend import Array
from gpucnn.errors import GpucnnError

GRACE = 1.0
"""Seconds that a rank which failed waits for rank 0, which may tell the same."""

FORWARDED = 0.3
"""Seconds in which a launcher forwards what was printed; it drops what it has not read when all are killed."""


class Communicator:
    """A single process: rank 0 of 1. Every operation is the identity.

    >>> comm = Communicator()
    >>> comm.rank, comm.size, comm.gather("here")
    (0, 1, ['here'])
    """

    rank = 0
    """The number of this process among the ``size`` that train together."""
    size = 1

    def all_reduce(self, array: Array) -> None:
        """Replace a contiguous array, of the same shape and dtype in every process, by the sum over all processes.

        The sum is computed in a binary tree over the ranks, so its bits are the same in every process and in every run.
        Raises ParameterError for an array that is not contiguous, or not in memory that this communicator can reach.
        """

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace a contiguous array in every process by the array of ``root``."""

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value (plain data: numbers, strings, lists, dicts), in rank order."""
        return [value]

    def barrier(self) -> None:
        """Wait until every process has reached this call."""

    def close(self) -> None:
        """Release the communicator. It must not be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def abort(self, code: int) -> None:
        """End all processes at once, with this exit code; a single process goes on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the communicator; where the block failed, say which rank did and end all: the others would wait for it."""
        if error is not None and self.size > 1:
            self._fail(error)
        self.close()

    def _fail(self, error: BaseException) -> None:
        code = getattr(error, "exit_code", 1)
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if not code:
                return
        if isinstance(error, KeyboardInterrupt):
            code = 130
        if self.rank:  # an error of all ranks is told by rank 0
            time.sleep(GRACE)
        elif not isinstance(error, (GpucnnError, SystemExit, KeyboardInterrupt)):
            traceback.print_exception(error)
        said = f"{type(error).__name__}: {error}"
        print(f"rank {self.rank} of {self.size} on {socket.gethostname()}: {said}", file=sys.stderr, flush=True)
        time.sleep(FORWARDED)
        self.abort(code)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} rank {self.rank} of {self.size}>"


def exchanges(rank: int, size: int, length: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield (partner, segment sent, segment kept) for each round of the tree's sums; ``size`` = 2^k.

    In round l, partners differ in bit l of their rank, so the sums form the tree over ranks. Both partners hold the same
    segment, and each keeps one half of it. After the last round every process has one segment of the total; the rounds in
    reverse order distribute the segments again (reduce-scatter by recursive halving, Rabenseifner 2004).

    >>> list(exchanges(rank=1, size=4, length=8))
    [(0, slice(0, 4, None), slice(4, 8, None)), (3, slice(6, 8, None), slice(4, 6, None))]
    """
    start, stop, distance = 0, length, 1
    while distance < size:
        middle = start + (stop - start) // 2
        low, high = slice(start, middle), slice(middle, stop)
        keeps_high = bool(rank & distance)
        sent, kept = (low, high) if keeps_high else (high, low)
        yield rank ^ distance, sent, kept
        start, stop = kept.start, kept.stop
        distance *= 2
