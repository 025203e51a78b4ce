"""CUDA through CuPy: every kernel runs the reference code of ``base.py`` on CuPy arrays."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpucnn.backend.base import Array, Backend
from gpucnn.errors import DeviceError

INSTALL = "pip install 'gpucnn[cuda13]' (or cuda12 for drivers older than 580)"


class CudaBackend(Backend):
    """Arrays on the GPU with number ``index``. Raises DeviceError, with the reason, where it cannot work."""

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.index = index
        self.name = f"cuda:{index}"
        try:
            self.xp = importlib.import_module("cupy")
        except ImportError as error:
            raise DeviceError(f"CuPy cannot be imported ({error}). Install it: {INSTALL}.") from None
        self._probe()

    def _probe(self) -> None:
        """Do a small piece of real work: a driver, NVRTC or cuBLAS that is missing shows only then."""
        try:
            count = self.xp.cuda.runtime.getDeviceCount()
        except Exception as error:  # CuPy's own kinds of error cannot be named without a working CuPy
            raise DeviceError(f"CUDA finds no usable GPU or driver ({_one_line(error)}). See: gpucnn doctor.") from None
        if self.index >= count:
            raise DeviceError.expected("device", self.name, f"a number below {count}, the count of GPUs", self.index)
        self._device = self.xp.cuda.Device(self.index)
        try:
            with self._device:
                ones = self.xp.ones((2, 2), self.xp.float32)
                total = float(((ones + ones) @ ones).sum())
        except Exception as error:
            raise DeviceError(
                f"{self.name} is there but cannot compute ({_one_line(error)}). Install all of CuPy's needs: {INSTALL}."
            ) from None
        if total != 16:
            raise DeviceError(f"{self.name} computes wrongly: 2x2 ones gave {total} instead of 16. Check the driver.")

    def owns(self, array: Any) -> bool:
        return isinstance(array, self.xp.ndarray) and array.device.id == self.index

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        with self._device:
            return self.xp.asarray(data, dtype=dtype)

    def to_host(self, array: Array) -> Any:
        return array.get(order="C")

    def synchronize(self) -> None:
        with self._device:
            self.xp.cuda.get_current_stream().synchronize()

    def describe(self) -> dict[str, Any]:
        runtime = self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(self.index)
        return {
            "device": self.name,
            "gpu": properties["name"].decode(),
            "memory_bytes": int(properties["totalGlobalMem"]),
            "compute_capability": self._device.compute_capability,
            "driver": runtime.driverGetVersion(),
            "cuda": runtime.runtimeGetVersion(),
        }

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._device:
            yield

    def _bit_generator(self, key: list[int]) -> Any:
        seed, counter = key
        return self.xp.random.Philox4x3210(seed=(seed * 0x9E3779B97F4A7C15 + counter) % 2**64)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
