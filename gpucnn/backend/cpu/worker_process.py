"""The worker process of ``gpucnn.backend.cpu.processes``: it runs parts of kernels in shared memory until its owner ends.

``python -m gpucnn.backend.cpu.worker_process SOCKET MEMORY``, two inherited file descriptors.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import socket
import sys
from functools import partial
from typing import Any

from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.cpu.processes import NUMBER, READY, arrays_at, numbered, receive
from gpucnn.backend.geometry import Window


def serve(connection: socket.socket, memory_file: int) -> None:
    """Answer every message with the number of calls done so far, or with the error, until the socket closes."""
    device = CpuDevice(threads=1)
    memory = None
    known: dict[int, Any] = {}
    done = 0
    connection.send(READY)
    while message := receive(connection):
        try:
            if len(message) == NUMBER:
                number = int.from_bytes(message, "little")
            else:
                described = json.loads(message)
                number = described["number"]
                if described["forget"]:
                    known.clear()
                if memory is None or len(memory) < described["memory"]:
                    memory = mmap.mmap(memory_file, described["memory"])
                known[number] = described["limit"], prepared(described, device, memory)
            device.workspace.limit, work = known[number]
            with device.active():
                work()
            done += 1
            connection.send(numbered(done))
        except Exception as error:
            connection.send(repr(error).encode()[:1000])


def prepared(described: dict[str, Any], device: CpuDevice, memory: mmap.mmap) -> partial[None]:
    """Return the described call with all its arguments bound."""
    module, name = described["kernel"].split(":")
    kernel = getattr(importlib.import_module(module), name)
    window = Window(*(tuple(pair) for pair in described["window"]))
    return partial(kernel, device, window, *arrays_at(memory, described["layout"]), *described["options"])


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
    os._exit(0)
