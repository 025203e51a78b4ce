"""Compiled kernels for the CPU, where a C compiler was there at installation; everything else goes on without them.

``library()`` is the extension module or None. ``GPUCNN_NATIVE=0`` turns it off; ``GPUCNN_CPU`` pins the vector width
(``sse2``, ``avx2``, ``avx512``; ``neon`` on ARM) that is otherwise the widest that the processor has. Who calls it is
``cpu/native.py``.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

from gpucnn.checks import shown
from gpucnn.errors import ParameterError


@cache
def _load() -> tuple[Any, str]:
    """Return the module, at the vector width asked for, and its name; or None and why there is none."""
    wanted = os.environ.get("GPUCNN_NATIVE", "") or "1"
    if wanted not in ("0", "1"):
        raise ParameterError.expected("GPUCNN_NATIVE", "value", "0 or 1", shown(wanted))
    if wanted == "0":
        return None, "turned off by GPUCNN_NATIVE=0"
    try:
        module = importlib.import_module("gpucnn.backend.native._kernels")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            return None, "not built: reinstall gpucnn where a C compiler and Python's headers are"
        return None, f"built, but not loadable: {error}"
    asked = os.environ.get("GPUCNN_CPU", "")
    try:
        return module, module.use(asked)
    except ValueError:
        raise ParameterError.expected(
            "GPUCNN_CPU",
            "value",
            "sse2, avx2, avx512, neon or generic, as far as this processor has them",
            shown(asked),
            "unset it to take the widest",
        ) from None


def library() -> Any:
    """Return the extension module, or None where there is none; ParameterError for a ``GPUCNN_CPU`` that cannot be."""
    return _load()[0]


def state() -> str:
    """Return the name of the instruction set in use, or why there are no compiled kernels."""
    return _load()[1]
