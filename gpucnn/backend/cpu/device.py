"""The CPU device: memory and threads."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gpucnn.backend import native
from gpucnn.backend.cpu.threads import BlasThreads, available_threads, blas_threads
from gpucnn.backend.cpu.workspace import Workspace
from gpucnn.backend.device import Array, Device
from gpucnn.checks import is_count, shown
from gpucnn.errors import ParameterError


class CpuDevice(Device):
    """The CPU and its arrays. Compiled kernels, used if they are installed unless ``compiled`` is False, run on ``threads``.

    ``threads`` defaults to ``GPUCNN_THREADS``, or the cores that the process may use. NumPy runs on the caller's thread.
    The BLAS of the whole process is set to one thread, or to ``GPUCNN_BLAS_THREADS``.
    """

    name = kind = "cpu"
    xp = np
    enter = staticmethod(partial(np.errstate, all="ignore"))  # 1 / 0 gives infinity without a warning, as on a GPU

    def __init__(self, threads: int | None = None, compiled: bool = True) -> None:
        super().__init__()
        if threads is not None and not is_count(threads, 1):
            raise ParameterError.expected("CpuDevice", "threads", "a positive int", shown(threads))
        self.kernels: Any = native.library() if compiled else None
        self.blas = BlasThreads(blas_threads())
        self.threads = available_threads() if threads is None else int(threads)
        self.sgemm = self.blas.sgemm() if self.kernels and self.blas.count == 1 else None
        self.workspace = Workspace()

    def to_host(self, array: Array) -> Any:
        return np.array(array, order="C")

    def describe(self) -> dict[str, Any]:
        return {
            "device": self.name,
            "threads": self.threads if self.kernels else self.blas.count,
            "blas": self.blas.names(),
            "blas_threads": self.blas.count,
            "kernels": native.state(),
        }

    def bit_generator(self, key: list[int]) -> Any:
        return np.random.Philox(key=key)
