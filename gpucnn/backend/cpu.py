"""NumPy on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.base import Array, Backend


class CpuBackend(Backend):
    """Arrays in the computer's own memory."""

    name = "cpu"
    xp = np

    def to_host(self, array: Array) -> Any:
        return np.array(array, order="C")

    def _bit_generator(self, key: list[int]) -> Any:
        return np.random.Philox(key=key)
