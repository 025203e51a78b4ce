"""MPI through mpi4py, for host arrays."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from gpucnn.backend import Array
from gpucnn.distributed.communicator import Communicator, exchanges
from gpucnn.errors import DeviceError, ParameterError, how_to_add


class MPICommunicator(Communicator):
    """The processes of ``MPI.COMM_WORLD`` or another mpi4py communicator. Their number must be a power of two.

    Raises DeviceError if mpi4py or an MPI library is missing, ParameterError for other numbers of processes.
    """

    def __init__(self, world: Any = None) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
            raise DeviceError(
                f"MPI: this process was started by a launcher, but mpi4py cannot be used ({error}). {how_to_add('mpi')}."
            ) from None
        self._world = MPI.COMM_WORLD if world is None else world
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        if self.size & (self.size - 1):
            raise ParameterError.expected("MPI", "processes", "1, 2, 4, 8, ...: a power of two", self.size)
        self._buffer = np.empty(0, np.uint8)

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
        """Return a reused receive buffer with the size and dtype of ``like``."""
        if self._buffer.nbytes < like.nbytes:
            self._buffer = np.empty(like.nbytes, np.uint8)
        return self._buffer[: like.nbytes].view(like.dtype)

    def broadcast(self, array: Array, root: int = 0) -> None:
        if not 0 <= root < self.size:
            raise ParameterError.expected("broadcast", "root", f"a rank from 0 to {self.size - 1}", root)
        self._world.Bcast(_flat(array, "broadcast"), root)

    def gather(self, value: Any) -> list[Any]:
        # JSON instead of mpi4py's pickle: data from another process must not run code.
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

    def abort(self, code: int) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what MPI says of it, when all has been said
        self._world.Abort(code)
        os._exit(code)  # some launchers take a moment to kill, in which Python would show the error again


def _flat(array: Array, where: str) -> Array:
    """Return a host array as a 1-D view; ParameterError if it is not a host array or not contiguous."""
    if not isinstance(array, np.ndarray) or not array.flags.c_contiguous or array.dtype.kind not in "fiu":
        shown = f"{array.dtype}, strides {array.strides}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ParameterError.expected(where, "array", "a C-ordered NumPy array of numbers", shown)
    return array.reshape(-1)
