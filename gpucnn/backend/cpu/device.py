"""The CPU device: memory, threads and processes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gpucnn.backend import native
from gpucnn.backend.cpu.processes import Processes
from gpucnn.backend.cpu.threads import BlasThreads, available_threads, blas_threads
from gpucnn.backend.cpu.workers import Workers
from gpucnn.backend.cpu.workspace import Workspace
from gpucnn.backend.device import Array, Device
from gpucnn.errors import ParameterError


class CpuDevice(Device):
    """The CPU and its arrays. Kernels run on ``threads`` threads, or on as many processes, at most eight.

    ``threads`` defaults to ``GPUCNN_THREADS``, or the cores that the process may use. The BLAS of the whole process is set
    to one thread, or to ``GPUCNN_BLAS_THREADS``. If that is more than one, only the BLAS is multi-threaded. Compiled kernels
    are used if they are installed, unless ``compiled`` is False.
    """

    name = kind = "cpu"
    xp = np
    enter = staticmethod(partial(np.errstate, all="ignore"))  # 1 / 0 gives infinity without a warning, as on a GPU

    def __init__(self, threads: int | None = None, compiled: bool = True) -> None:
        super().__init__()
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise ParameterError.expected("CpuDevice", "threads", "a positive int", repr(threads))
        self.kernels: Any = native.library() if compiled else None
        self.blas = BlasThreads(blas_threads())
        count = available_threads() if threads is None else threads
        self.workers = Workers(count if blas_threads() == 1 else 1)
        self.processes = Processes(self.workers.count)
        self.workspace = Workspace(self.workers.count)

    def to_host(self, array: Array) -> Any:
        return np.array(array, order="C")

    def describe(self) -> dict[str, Any]:
        return {
            "device": self.name,
            "threads": max(self.workers.count, self.blas.count),
            "blas": self.blas.names(),
            "kernels": native.state(),
        }

    def bit_generator(self, key: list[int]) -> Any:
        return np.random.Philox(key=key)
