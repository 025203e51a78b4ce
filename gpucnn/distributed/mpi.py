"""MPI through mpi4py: arrays of the host."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gpucnn.backend import Array
from gpucnn.distributed.communicator import Communicator, exchanges
from gpucnn.errors import DeviceError, ParameterError, how_to_add


class MPICommunicator(Communicator):
    """The processes of ``MPI.COMM_WORLD``, or of another communicator of mpi4py; their number is a power of two.

    Raises DeviceError where mpi4py or its MPI is missing, ParameterError for another number of processes.
    """

    def __init__(self, world: Any = None) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # without an MPI library it is a RuntimeError
            raise DeviceError(
                f"MPI: this process was started by a launcher, but mpi4py cannot be used ({error}). {how_to_add('mpi')}."
            ) from None
        self._world = MPI.COMM_WORLD if world is None else world
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        if self.size & (self.size - 1):
            raise ParameterError.expected("MPI", "processes", "1, 2, 4, 8, ...: a power of two", self.size)
        self._room = np.empty(0, np.uint8)

    def all_reduce(self, array: Array) -> None:
        flat = _flat(array, "all_reduce")
        rounds = list(exchanges(self.rank, self.size, flat.size))
        for partner, sent, kept in rounds:
            received = self._received(flat[kept])
            self._world.Sendrecv(flat[sent], partner, 0, received, partner, 0)
            flat[kept] += received
        for partner, sent, kept in reversed(rounds):
            self._world.Sendrecv(flat[kept], partner, 0, flat[sent], partner, 0)

    def _received(self, like: Array) -> Array:
        """Return memory, used again and again, for as many numbers as ``like`` has."""
        if self._room.nbytes < like.nbytes:
            self._room = np.empty(like.nbytes, np.uint8)
        return self._room[: like.nbytes].view(like.dtype)

    def broadcast(self, array: Array, root: int = 0) -> None:
        if not 0 <= root < self.size:
            raise ParameterError.expected("broadcast", "root", f"a rank from 0 to {self.size - 1}", root)
        self._world.Bcast(_flat(array, "broadcast"), root)

    def gather(self, value: Any) -> list[Any]:
        # As JSON, not by mpi4py's own pickle: what another process sends is data and runs no code.
        return [json.loads(text) for text in self._texts(json.dumps(value))]

    def _texts(self, text: str) -> list[bytes]:
        own = np.frombuffer(text.encode(), np.uint8)
        counts = np.empty(self.size, np.int64)
        self._world.Allgather(np.array([own.size], np.int64), counts)
        every = np.empty(int(counts.sum()), np.uint8)
        self._world.Allgatherv(own, (every, counts))
        ends = np.cumsum(counts)
        return [every[end - count : end].tobytes() for end, count in zip(ends, counts, strict=True)]

    def barrier(self) -> None:
        self._world.Barrier()


def _flat(array: Array, where: str) -> Array:
    """Return an array of the host as a 1-D view; ParameterError where it is none, or not contiguous."""
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous or array.dtype.kind not in "fiu":
        shown = f"{array.dtype}, strides {array.strides}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ParameterError.expected(where, "array", "a C-ordered NumPy array of numbers", shown)
    return array.reshape(-1)
