"""The communicator: what one process knows of the others. This one is of a process alone; MPI's and NCCL's derive from it.

Sums are made in a binary tree over the ranks, ((0 + 1) + (2 + 3)) + ..., each sum once and its result sent on. So every
process gets the same bits, and where each process adds its own part of a larger tree first (ranks hold aligned runs of
shards), the bits do not depend on the number of processes. Addition commutes, so it does not matter which of two partners
adds; it does not associate, so the tree is all that counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from gpucnn.backend import Array


class Communicator:
    """A process alone: rank 0 of 1. Every operation is the identity.

    >>> comm = Communicator()
    >>> comm.rank, comm.size, comm.gather("here")
    (0, 1, ['here'])
    """

    rank = 0
    """The number of this process among the ``size`` that train together."""
    size = 1

    def all_reduce(self, array: Array) -> None:
        """Replace a contiguous array, of the same shape and dtype in every process, by the sum over all processes.

        The sum is made in a binary tree over the ranks, so its bits are the same in every process and in every run.
        Raises ParameterError for an array that is not contiguous, or lies where this communicator cannot reach it.
        """

    def broadcast(self, array: Array, root: int = 0) -> None:
        """Replace a contiguous array in every process by that of ``root``."""

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value (plain data: numbers, texts, lists, dicts), in the order of the ranks."""
        return [value]

    def barrier(self) -> None:
        """Wait until every process has come here."""

    def close(self) -> None:
        """Let go of the others; a communicator is not used after that."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} rank {self.rank} of {self.size}>"


def exchanges(rank: int, size: int, length: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield (partner, segment sent, segment kept) of each round in which the tree's sums are made, for ``size`` = 2^k.

    In round l partners differ in bit l of their rank, so sums meet as in the tree over ranks. Both hold the same segment
    then, and each goes on with one half of it: after the last round every process has one segment of the whole sum, and
    the rounds in reverse order spread the segments again (recursive doubling with halved vectors: Rabenseifner 2004).

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
