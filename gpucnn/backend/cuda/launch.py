"""Compiling and launching the kernels of the ``.cu`` files.

A family of kernels is a ``.cu`` file, which the Python file of the same name launches. NVRTC compiles a family at its first
launch; once more for float16, and products and convolutions for TF32, where these are used. CuPy caches the binaries on disk
(``CUPY_CACHE_DIR``) for later processes. ``gpucnn doctor --warmup`` compiles them ahead of time.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Grid = tuple[int, ...]

THREADS = 256
"""Threads per block of the element-wise kernels, the GEMMs and the reductions."""
STORED = (np.dtype(np.float32), np.dtype(np.float16))
"""The dtypes of what the sources call `stored`."""
MOST_BLOCKS = 65_536
"""The most blocks of an element-wise kernel. Beyond it, each thread processes several elements."""
OPTIONS = ("-std=c++17",)
TF32 = (*OPTIONS, "-DTF32=1")
HALF = "-DHALF=1"
FOLDER = Path(__file__).parent
FAMILIES = tuple(sorted(path.stem for path in FOLDER.glob("*.cu")))
HEADERS = {
    "linear": ["tiles.cuh"],
    "conv": ["tiles.cuh", "convolution.cuh"],
    "wide_conv": ["tiles.cuh", "convolution.cuh"],
}
IN_TILES = tuple(HEADERS)
"""The families that multiply tiles, and so differ in TF32."""
STORING = ("activation", "conv", "data", "linear", "norm", "optim", "pool", "wide_conv")
"""The families that read and write what the sources call `stored`, and so differ in float16."""


def options_for(family: str, tf32: bool, half: bool, macros: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return what a family is compiled with."""
    return (*(TF32 if tf32 and family in IN_TILES else OPTIONS), *([HALF] if half else []), *macros)


@cache
def source(family: str) -> str:
    """Return the text that is compiled for a family: what it shares with others, and its own file."""
    files = ["common.cuh", *HEADERS.get(family, []), f"{family}.cu"]
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in files)


class Kernels:
    """The kernels of one family on one device, compiled with ``options``."""

    def __init__(self, xp: ModuleType, family: str, options: tuple[str, ...] = OPTIONS) -> None:
        self._xp, self._family, self._options = xp, family, options
        self._module: Any = None
        self._functions: dict[str, Any] = {}

    def launch(self, name: str, grid: Grid, block: Grid, *arguments: Any) -> None:
        """Run a kernel on the current stream. Arguments are device arrays and NumPy scalars of the kernel's own types."""
        function = self._functions.get(name)
        if function is None:
            if self._module is None:
                self._module = self._xp.RawModule(code=source(self._family), options=self._options)
            function = self._functions[name] = self._module.get_function(name)
        function(grid, block, arguments)

    def each(self, name: str, count: int, *arguments: Any) -> None:
        """Run a kernel with one thread for each of ``count`` elements (several elements if there are very many)."""
        self.launch(name, (min(-(-count // THREADS), MOST_BLOCKS),), (THREADS,), *arguments)

    def compile(self) -> None:
        """Compile all kernels now, or load them from the disk cache."""
        self._module = self._xp.RawModule(code=source(self._family), options=self._options)
        self._module.compile()


def int32(*numbers: int) -> tuple[np.int32, ...]:
    """Return the numbers as int32 for a kernel's ``int``. CuPy would pass Python's ints as 64 bits."""
    return tuple(np.int32(number) for number in numbers)


def pages(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (N, C, Q) of an array (N, C, ...)."""
    return shape[0], shape[1], math.prod(shape[2:])
