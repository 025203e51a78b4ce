"""cupy.cuda.nccl for the stand-in: ranks are threads, each with a current device of its own.

It refuses what NCCL refuses: two ranks on one GPU, a peer that is none. Where NCCL would hang, read illegal addresses or
mix up numbers, it raises as well: memory that is not the device's, too short for the count or of another type, partners
whose counts or types differ, sends and receives that wait for each other outside of a group.
"""

import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import addresses, devices

INVALID_ARGUMENT, INVALID_USAGE, REMOTE = (4, "invalid argument"), (5, "invalid usage"), (6, "remote error")
KINDS = {
    "NCCL_INT8": 0, "NCCL_CHAR": 0, "NCCL_UINT8": 1, "NCCL_INT32": 2, "NCCL_INT": 2, "NCCL_UINT32": 3, "NCCL_INT64": 4,
    "NCCL_UINT64": 5, "NCCL_FLOAT16": 6, "NCCL_HALF": 6, "NCCL_FLOAT32": 7, "NCCL_FLOAT": 7, "NCCL_FLOAT64": 8,
    "NCCL_DOUBLE": 8, "NCCL_BFLOAT16": 9,
}  # fmt: skip
DTYPES = ("int8", "uint8", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64")
PATIENCE = 5.0
"""Seconds after which a rank that waits would wait for ever."""


class NcclError(RuntimeError):
    def __init__(self, status: tuple[int, str], why: str) -> None:
        self.status = status[0]
        super().__init__(f"NCCL_ERROR_{status[1].upper().replace(' ', '_')}: {why}")


@dataclass
class _World:
    """The ranks that share an id, what they have sent, and how often each has met the others."""

    size: int
    devices: dict[int, int] = field(default_factory=dict)
    sent: dict[tuple[int, int], list["_Send"]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, ready: Any, what: str) -> None:
        """Wait with ``changed`` held."""
        if not self.changed.wait_for(ready, PATIENCE):
            raise NcclError(REMOTE, f"{what}: on a GPU this would wait for ever")


@dataclass
class _Send:
    values: "np.ndarray[Any, Any]"
    taken: bool = False


@dataclass
class _Call:
    link: "NcclCommunicator"
    view: "np.ndarray[Any, Any]"
    peer: int
    sends: bool


_worlds: dict[bytes, _World] = {}
_lock = threading.Lock()


class _Group(threading.local):
    depth = 0

    def __init__(self) -> None:
        self.calls: list[_Call] = []


_group = _Group()


def get_unique_id() -> bytes:
    return secrets.token_bytes(128)


def groupStart() -> None:
    _group.depth += 1


def groupEnd() -> None:
    if not _group.depth:
        raise NcclError(INVALID_USAGE, "groupEnd without groupStart")
    _group.depth -= 1
    if not _group.depth:
        calls, _group.calls = _group.calls, []
        _run(calls)


def _run(calls: list[_Call]) -> None:
    waiting: list[tuple[_World, _Send]] = []
    for call in (one for one in calls if one.sends):
        world, send = call.link._world, _Send(call.view.copy())
        with world.changed:
            world.sent.setdefault((call.link._rank, call.peer), []).append(send)
            world.changed.notify_all()
        waiting.append((world, send))
    for call in (one for one in calls if not one.sends):
        world, way = call.link._world, (call.peer, call.link._rank)
        with world.changed:
            world.wait(lambda world=world, way=way: world.sent.get(way), f"recv from rank {call.peer}")
            send = world.sent[way].pop(0)
            if (send.values.dtype, send.values.size) != (call.view.dtype, call.view.size):
                got = f"{send.values.size} {send.values.dtype} sent, {call.view.size} {call.view.dtype} expected"
                raise NcclError(INVALID_USAGE, f"rank {call.peer} to {call.link._rank}: {got}")
            call.view[...] = send.values
            send.taken = True
            world.changed.notify_all()
    for world, send in waiting:
        with world.changed:
            world.wait(lambda send=send: send.taken, "send")


class NcclCommunicator:
    def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:
        if not isinstance(commId, bytes):
            kind = type(commId).__name__
            raise TypeError(f"Argument 'commId' has incorrect type (expected bytes, got {kind})")
        if len(commId) != 128 or not 0 <= rank < ndev:
            raise NcclError(INVALID_ARGUMENT, f"rank {rank} of {ndev}, an id of {len(commId)} bytes")
        with _lock:
            self._world = world = _worlds.setdefault(commId, _World(ndev))
        self._rank, self._alive = rank, True
        with world.changed:
            if ndev != world.size or rank in world.devices:
                raise NcclError(INVALID_USAGE, f"rank {rank} of {ndev} joins twice, or another size")
            world.devices[rank] = devices.current()
            world.changed.notify_all()
            world.wait(lambda: len(world.devices) == ndev, f"rank {rank} of {ndev}")
        if len(set(world.devices.values())) < ndev:
            raise NcclError(INVALID_USAGE, f"Duplicate GPU detected: ranks on devices {world.devices}")

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._add(sendbuf, count, datatype, peer, True)

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        self._add(recvbuf, count, datatype, peer, False)

    def bcast(self, buff: int, count: int, datatype: int, root: int, stream: int) -> None:
        others = [rank for rank in range(self._world.size) if rank != self._rank]
        groupStart()
        for peer in others if self._rank == root else [root]:
            self._add(buff, count, datatype, peer, self._rank == root)
        groupEnd()

    def destroy(self) -> None:
        self._alive = False

    def _add(self, pointer: int, count: int, datatype: int, peer: int, sends: bool) -> None:
        if not self._alive:
            raise NcclError(INVALID_USAGE, "the communicator is destroyed")
        if not 0 <= peer < self._world.size or not 0 <= datatype < len(DTYPES):
            raise NcclError(INVALID_ARGUMENT, f"peer {peer} of {self._world.size}, data type {datatype}")
        try:
            memory = addresses.view(pointer, count, DTYPES[datatype], self._world.devices[self._rank])
        except ValueError as error:
            raise NcclError(INVALID_ARGUMENT, str(error)) from None
        call = _Call(self, memory, peer, sends)
        if _group.depth:
            _group.calls.append(call)
        else:
            _run([call])
