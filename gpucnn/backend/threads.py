"""How many threads the BLAS shares a matrix product among: all the parallelism there is on the CPU.

Measured on two cores (docs/design.md): handing work to a second Python thread costs tens of microseconds where a sleeping
core must be woken, and again at every turn of the interpreter's lock, while the BLAS's own threads wait awake in C.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from threadpoolctl import ThreadpoolController

from gpucnn.errors import ParameterError


def available_threads() -> int:
    """Return ``GPUCNN_THREADS``, or else the number of cores that this process may use, as a container limits them."""
    asked = os.environ.get("GPUCNN_THREADS", "")
    if asked:
        if not asked.isdecimal() or int(asked) < 1:
            raise ParameterError.expected("GPUCNN_THREADS", "value", "a positive whole number", repr(asked))
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, _container_cores() or cores), 1)


def _container_cores() -> int | None:
    """Return the cores that the control group grants (version 2), rounded up; None where it sets no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


class BlasThreads:
    """The BLAS libraries of this process, set once to ``count`` threads where they would use more, or were told to."""

    def __init__(self, count: int | None = None) -> None:
        self._libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
        wanted = available_threads() if count is None else count
        told = count is not None or bool(os.environ.get("GPUCNN_THREADS"))
        for library in self._libraries:
            if told or library.get_num_threads() > wanted:
                library.set_num_threads(wanted)

    @property
    def count(self) -> int:
        """The threads of the BLAS now; 1 where no BLAS is known."""
        return max((library.get_num_threads() for library in self._libraries), default=1)

    def names(self) -> list[str]:
        """Return the name, version and processor kind of each BLAS library."""
        words = ((lib.internal_api, lib.version, getattr(lib, "architecture", None)) for lib in self._libraries)
        return [" ".join(str(word) for word in some if word) for some in words]
