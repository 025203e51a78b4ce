"""NCCL through CuPy, for GPU arrays, with one process per GPU. MPI distributes NCCL's unique id.

NCCL's own all-reduce does not fix the order of sums. So the sums use the same tree as everywhere, built from NCCL's sends
and receives.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np

from gpucnn.backend import Array, get_backend
from gpucnn.distributed.communicator import Communicator, exchanges
from gpucnn.errors import DeviceError, ParameterError, how_to_add, shortened

ROUND = 0.1
"""Seconds after which the ranks tell each other whether one has failed to join."""


class NCCLCommunicator(Communicator):
    """The processes of a host communicator. Each uses the GPU with its local rank on this machine.

    Raises DeviceError in every process if NCCL is missing or fails in one of them, or if two would share a GPU.
    """

    def __init__(self, hosts: Communicator, device: int | None = None) -> None:
        self._hosts = hosts
        self.rank, self.size = hosts.rank, hosts.size
        index = local_rank(hosts) if device is None else device
        identity, failure = None, ""
        try:
            self._backend = get_backend(f"cuda:{index}")
            self._nccl: Any = importlib.import_module("cupy.cuda.nccl")
            self._kinds = {
                "float16": self._nccl.NCCL_FLOAT16, "float32": self._nccl.NCCL_FLOAT32,
                "float64": self._nccl.NCCL_FLOAT64, "int32": self._nccl.NCCL_INT32, "int64": self._nccl.NCCL_INT64,
            }  # fmt: skip
            identity = list(self._nccl.get_unique_id()) if self.rank == 0 else None
        except Exception as error:  # whatever CuPy and NCCL raise
            failure = f"{type(error).__name__}: {error}"
        self._refuse(hosts.gather(failure))
        self._link = self._join(bytes(hosts.gather(identity)[0]))

    def _join(self, identity: bytes) -> Any:
        """Return NCCL's communicator. A rank that fails in it leaves the others waiting there, in a thread of their own."""
        made: list[Any] = []
        failure = ""

        def make() -> None:
            nonlocal failure
            try:
                with self._backend.active():
                    made.append(self._nccl.NcclCommunicator(self.size, identity, self.rank))
            except Exception as error:  # whatever CuPy and NCCL raise
                failure = f"{type(error).__name__}: {error}"

        maker = threading.Thread(target=make, name="nccl", daemon=True)
        maker.start()
        ready = [False]
        while not all(ready):
            maker.join(ROUND)
            states = self._hosts.gather([not maker.is_alive(), failure])
            ready = [done for done, _ in states]
            self._refuse([why for _, why in states])
        return made[0]

    def _refuse(self, failures: list[str]) -> None:
        """Raise DeviceError with the first of the ranks' failures, if there is one."""
        rank = next((rank for rank, why in enumerate(failures) if why), None)
        if rank is not None:
            why = f"rank {rank} of {self.size}: {shortened(failures[rank])}"
            raise DeviceError(f"NCCL cannot be used ({why}). {how_to_add('nccl')}, and one process for each GPU.")

    def all_reduce(self, array: Array) -> None:
        flat = self._flat(array, "all_reduce")
        rounds = list(exchanges(self.rank, self.size, flat.size))
        with self._backend.active():
            received = self._backend.xp.empty((flat.size + 1) // 2, flat.dtype)
            for partner, sent, kept in rounds:
                part = received[: flat[kept].size]
                self._exchange(partner, flat[sent], part)
                flat[kept] += part
            for partner, sent, kept in reversed(rounds):
                self._exchange(partner, flat[kept], flat[sent])

    def _exchange(self, partner: int, sent: Array, received: Array) -> None:
        stream, kind = self._backend.xp.cuda.get_current_stream().ptr, self._kinds[str(sent.dtype)]
        self._nccl.groupStart()
        self._link.send(sent.data.ptr, sent.size, kind, partner, stream)
        self._link.recv(received.data.ptr, received.size, kind, partner, stream)
        self._nccl.groupEnd()

    def broadcast(self, array: Array, root: int = 0) -> None:
        if not 0 <= root < self.size:
            raise ParameterError.expected("broadcast", "root", f"a rank from 0 to {self.size - 1}", root)
        flat = self._flat(array, "broadcast")
        with self._backend.active():
            stream = self._backend.xp.cuda.get_current_stream().ptr
            self._link.bcast(flat.data.ptr, flat.size, self._kinds[str(flat.dtype)], root, stream)

    def _flat(self, array: Array, where: str) -> Array:
        if not self._backend.owns(array) or not array.flags.c_contiguous or str(array.dtype) not in self._kinds:
            wanted = f"a C-ordered array on {self._backend.name} of {', '.join(self._kinds)}"
            raise ParameterError.expected(
                where, "array", wanted, f"{type(array).__module__} {getattr(array, 'dtype', '')}"
            )
        with self._backend.active():
            return array.reshape(-1)

    def gather(self, value: Any) -> list[Any]:
        return self._hosts.gather(value)

    def barrier(self) -> None:
        self._backend.synchronize()
        self._hosts.barrier()

    def abort(self, code: int) -> None:
        self._hosts.abort(code)

    def close(self) -> None:
        self._link.destroy()
        self._hosts.close()


def local_rank(hosts: Communicator) -> int:
    """Return the number of processes with a lower rank on this machine."""
    import socket

    names = hosts.gather(socket.gethostname())
    return int(np.sum([name == names[hosts.rank] for name in names[: hosts.rank]]))
