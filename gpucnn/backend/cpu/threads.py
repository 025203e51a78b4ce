"""The numbers of threads: of the compiled kernels, and of the BLAS.

Two pools of threads that spin while they wait slow each other down, so the BLAS has one thread unless
``GPUCNN_BLAS_THREADS`` says otherwise. Measurements are in docs/performance.md.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from gpucnn.errors import ParameterError


def available_threads() -> int:
    """Return ``GPUCNN_THREADS``, or the number of cores that this process, or its container, may use."""
    if (asked := _asked("GPUCNN_THREADS")) is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, _container_cores() or cores), 1)


def blas_threads() -> int:
    """Return ``GPUCNN_BLAS_THREADS``, or else 1."""
    return _asked("GPUCNN_BLAS_THREADS") or 1


def _asked(variable: str) -> int | None:
    asked = os.environ.get(variable, "")
    return positive(variable, asked, "a positive whole number") if asked else None


def positive(variable: str, asked: str, words: str) -> int:
    """Return the number in an environment variable; ParameterError unless it is a plausible positive number.

    >>> positive("GPUCNN_THREADS", "4", "a positive whole number")
    4
    """
    if not asked.isdecimal() or len(asked) > 9 or int(asked) < 1:
        raise ParameterError.expected(variable, "value", words, repr(asked if len(asked) <= 40 else f"{asked[:40]}..."))
    return int(asked)


def _is_other_than_numpys(library: Any) -> bool:
    """Return whether a library lies outside the folders of NumPy's wheels: ``numpy``, and ``numpy.libs`` beside it."""
    package = Path(np.__file__).resolve().parent
    path = Path(library.filepath).resolve()
    return not any(path.is_relative_to(folder) for folder in (package, package.parent / "numpy.libs"))


def _container_cores() -> int | None:
    """Return the core limit of the control group (version 2), rounded up; None if there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


class BlasThreads:
    """The BLAS libraries of this process, set once to ``count`` threads."""

    def __init__(self, count: int) -> None:
        self._libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
        for library in self._libraries:
            library.set_num_threads(count)

    @property
    def count(self) -> int:
        """The current number of BLAS threads; 1 if no BLAS is known."""
        return max((library.get_num_threads() for library in self._libraries), default=1)

    def sgemm(self) -> tuple[int, bool] | None:
        """Return the address of OpenBLAS's ``cblas_sgemm``, and whether its integers have 64 bits; None without one.

        OpenBLAS with its own threads (pthreads) may be called by several of these threads at the same time. NumPy's
        own library goes first: SciPy brings another, and whether it is loaded must not change the bits.
        """
        for library in sorted(self._libraries, key=_is_other_than_numpys):
            if library.internal_api != "openblas" or getattr(library, "threading_layer", None) != "pthreads":
                continue
            for name in (
                "scipy_{}64_",
                "{}64_",
                "scipy_{}",
                "{}",
            ):  # in NumPy's wheels since version 2, before it, elsewhere
                function = getattr(library.dynlib, name.format("cblas_sgemm"), None)
                config = getattr(library.dynlib, name.format("openblas_get_config"), None)
                if function is not None and config is not None:
                    config.restype = ctypes.c_char_p
                    return ctypes.cast(function, ctypes.c_void_p).value or 0, b"USE64BITINT" in config()
        return None

    def names(self) -> list[str]:
        """Return the name, version and processor kind of each BLAS library."""
        words = ((lib.internal_api, lib.version, getattr(lib, "architecture", None)) for lib in self._libraries)
        return [" ".join(str(word) for word in some if word) for some in words]
