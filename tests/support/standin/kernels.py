"""cupy.RawModule for the stand-in: its kernels run on the CPU (tests/support/kernels_on_cpu), every argument checked.

Stricter than CuPy, which passes whatever it is given: an array must have the dtype that the kernel's source names and be
C-ordered, a scalar must be a NumPy scalar of exactly that type, and the grid must have at least one block.
"""

from typing import Any

import kernels_on_cpu
import numpy as np

from . import capture
from .array import ndarray
from .counters import launches
from .cuda import INVALID_VALUE, NOT_FOUND, driver_error
from .signatures import gap

MOST_BLOCKS = (2**31 - 1, 65_535, 65_535)
MOST_THREADS = (1024, 1024, 64)


class RawModule:
    def __init__(
        self, code: str | None = None, *, path: str | None = None, options: tuple[str, ...] = (), backend: str = "nvrtc",
        translate_cucomplex: bool = False, enable_cooperative_groups: bool = False, name_expressions: Any = None,
        jitify: Any = None,
    ) -> None:  # fmt: skip
        if code is None or path is not None or name_expressions is not None or enable_cooperative_groups or jitify:
            raise gap("cupy.RawModule of anything but code")
        if not isinstance(options, tuple) or not all(isinstance(one, str) and one.startswith("-") for one in options):
            raise TypeError(f"Argument 'options' has incorrect type (expected a tuple of options, got {options!r})")
        self.code, self.options, self.backend = code, options, backend

    def compile(self, log_stream: Any = None) -> None:
        capture.refuse("loading a module")
        self._kernels()

    def get_function(self, name: str) -> "RawKernel":
        capture.refuse("loading a kernel")
        kernels = self._kernels()
        if name not in kernels:
            raise driver_error(NOT_FOUND)
        return RawKernel(kernels[name])

    def _kernels(self) -> kernels_on_cpu.Library:
        return kernels_on_cpu.build(self.code, *(option for option in self.options if option.startswith("-D")))


class RawKernel:
    """What get_function returns; the stand-in has no RawKernel made from code."""

    def __init__(self, kernel: kernels_on_cpu.Kernel) -> None:
        self._kernel, self.name = kernel, kernel.name

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0) -> None:
        sizes = []
        for what, given, most in (("grid", grid, MOST_BLOCKS), ("block", block, MOST_THREADS)):
            if not isinstance(given, tuple) or not 1 <= len(given) <= 3 or not all(isinstance(n, int) for n in given):
                raise TypeError(f"{self.name}: {what}: expected a tuple of one to three ints, got {given!r}")
            size = (*given, 1, 1)[:3]
            if not all(1 <= n <= limit for n, limit in zip(size, most, strict=True)):
                raise driver_error(INVALID_VALUE)
            sizes.append(size)
        if sizes[1][0] * sizes[1][1] * sizes[1][2] > self._kernel.most_threads:
            raise driver_error(INVALID_VALUE)
        if not isinstance(args, (tuple, list)):
            raise TypeError(f"{self.name}: args: expected a tuple, got {type(args).__name__}")
        for parameter, value in zip(self._kernel.parameters, args, strict=False):
            if isinstance(value, np.ndarray) or parameter.is_pointer is not isinstance(value, ndarray):
                kind = "a cupy.ndarray" if parameter.is_pointer else f"a NumPy {parameter.dtype}"
                raise TypeError(f"{self.name}: {parameter.name}: expected {kind}, got {type(value)}")
        launches.note(self.name)
        host = [value._host if isinstance(value, ndarray) else value for value in args]
        capture.do(lambda: kernels_on_cpu.run_guarded(self._kernel, *sizes, host, shared_mem))
