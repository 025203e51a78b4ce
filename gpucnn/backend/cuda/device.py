"""CUDA through CuPy: a GPU's memory, streams and kernels.

The kernels of ``kernels.cu`` serve float32; for everything else there are the references in ``ops``, on CuPy.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn.backend.cuda.autotune import Autotuner
from gpucnn.backend.cuda.launch import TF32, Kernels
from gpucnn.backend.device import Array, Device
from gpucnn.errors import DeviceError, OutOfMemoryError, how_to_add

OLDER = "(or cuda12 for drivers older than 580)"
RESIDENT_SHARE = 0.5
"""Of the memory that is free, what a data set may take to be kept on the device; the rest is for the training."""
LESS = "Use smaller batches, or end other programs on this GPU."


class CudaDevice(Device):
    """Arrays on the GPU with number ``index``. Raises DeviceError, with the reason, where it cannot work."""

    kind = "cuda"
    captures = True

    def __init__(self, index: int = 0) -> None:
        super().__init__()
        self.index = index
        self.name = f"cuda:{index}"
        try:
            self.xp = importlib.import_module("cupy")
        except ImportError as error:
            raise DeviceError(
                f"CuPy cannot be imported ({error}). Install it: {how_to_add('cuda13')} {OLDER}."
            ) from None
        self._probe()
        self.has_tf32 = int(self._device.compute_capability) >= 80
        self._kernels = {False: Kernels(self.xp)}
        if self.has_tf32:
            self._kernels[True] = Kernels(self.xp, TF32)
        self._thread = threading.local()
        self._constants: dict[Any, Array] = {}
        self.autotuner = Autotuner(self.xp) if os.environ.get("GPUCNN_AUTOTUNE") == "1" else None

    def _probe(self) -> None:
        """Do a small piece of real work: a driver, NVRTC or cuBLAS that is missing shows only then."""
        try:
            count = self.xp.cuda.runtime.getDeviceCount()
        except Exception as error:  # CuPy's own kinds of error cannot be named without a working CuPy
            words = f"CUDA finds no usable GPU or driver ({_one_line(error)})."
            raise DeviceError(words, remedy="see: gpucnn doctor") from None
        if self.index >= count:
            raise DeviceError.expected("device", self.name, f"a number below {count}, the count of GPUs", self.index)
        self._device = self.xp.cuda.Device(self.index)
        try:
            with self._device:
                ones = self.xp.ones((2, 2), self.xp.float32)
                total = float(((ones + ones) @ ones).sum())
        except Exception as error:
            raise DeviceError(
                f"{self.name} is there but cannot compute ({_one_line(error)}). Install all of CuPy's needs: "
                f"{how_to_add('cuda13')} {OLDER}."
            ) from None
        if total != 16:
            raise DeviceError(f"{self.name} computes wrongly: 2x2 ones gave {total} instead of 16. Check the driver.")

    @property
    def recording(self) -> Any:
        """The ``Recording`` that this thread watches, records or replays now; None as a rule."""
        return getattr(self._thread, "recording", None)

    @recording.setter
    def recording(self, recording: Any) -> None:
        self._thread.recording = recording

    # --- arrays ------------------------------------------------------------------------------------------------

    def owns(self, array: Any) -> bool:
        return isinstance(array, self.xp.ndarray) and array.device.id == self.index

    def asarray(self, data: Any, dtype: Any = None) -> Array:
        with self._device:
            return self.xp.asarray(data, dtype=dtype)

    def adopt(self, shared: Any) -> Array:
        with self._device:
            return self.xp.from_dlpack(shared) if hasattr(shared, "__dlpack__") else self.xp.asarray(shared)

    def to_host(self, array: Array) -> Any:
        with self._device:
            return array.get(order="C")

    def item(self, array: Array) -> Any:
        with self._device:
            return array.item()

    def tolist(self, array: Array) -> Any:
        with self._device:
            return array.tolist()

    def export(self, array: Array, **options: Any) -> Any:
        with self._device:
            return array.__dlpack__(**options)

    def fits(self, size: int) -> bool:
        """Whether ``size`` bytes leave enough of the free memory, that of CuPy's pool too."""
        with self._device:
            free, _ = self.xp.cuda.runtime.memGetInfo()
            return bool(size <= RESIDENT_SHARE * (free + self.xp.get_default_memory_pool().free_bytes()))

    def synchronize(self) -> None:
        with self._device:
            self.xp.cuda.get_current_stream().synchronize()

    def describe(self) -> dict[str, Any]:
        runtime = self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(self.index)
        report = {
            "device": self.name,
            "gpu": properties["name"].decode(),
            "memory_bytes": int(properties["totalGlobalMem"]),
            "compute_capability": self._device.compute_capability,
            "driver": runtime.driverGetVersion(),
            "cuda": runtime.runtimeGetVersion(),
        }
        return report if self.autotuner is None else {**report, "algorithms": self.autotuner.report()}

    @contextmanager
    def enter(self) -> Iterator[None]:
        with self._device:
            try:
                yield
            except OutOfMemoryError:
                raise
            except MemoryError as error:  # of what CuPy does by itself
                self.free_memory()
                raise OutOfMemoryError(f"{self.name}: {_one_line(error)} {self._free()} {LESS}") from None

    @property
    def kernels(self) -> Kernels:
        """The kernels in what this thread multiplies in."""
        return self._kernels[self.in_tf32]

    def warm_up(self) -> None:
        with self._device:
            for kernels in self._kernels.values():
                kernels.compile()

    def contiguous(self, *arrays: Array) -> list[Array]:
        """Return the arrays C-ordered: themselves where they are."""
        return [self.xp.ascontiguousarray(array) for array in arrays]

    def constant(self, values: tuple[float, ...], dtype: Any) -> Array:
        """Return an array of values that never change, moved to the device once."""
        key = (values, np.dtype(dtype).char)
        if key not in self._constants:
            self._constants[key] = self.asarray(np.array(values, dtype))
        return self._constants[key]

    def empty(self, what: str, shape: Sequence[int], dtype: Any) -> Array:
        """Return uninitialised memory. OutOfMemoryError, naming ``what`` asks, where there is none after a clean-up."""
        try:
            return self.xp.empty(shape, dtype)
        except MemoryError:
            self.free_memory()
        try:
            return self.xp.empty(shape, dtype)
        except MemoryError:
            asked = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            raise OutOfMemoryError(f"{what}: {asked:,} bytes asked on {self.name}. {self._free()} {LESS}") from None

    def _free(self) -> str:
        free, total = self.xp.cuda.runtime.memGetInfo()
        return f"{free:,} of {total:,} bytes are free."

    def free_memory(self) -> None:
        """Give memory that no array uses back to the driver."""
        self.xp.get_default_memory_pool().free_all_blocks()

    # --- random numbers ----------------------------------------------------------------------------------------

    def bit_generator(self, key: list[int]) -> Any:
        seed, counter = key
        return self.xp.random.Philox4x3210(seed=(seed * 0x9E3779B97F4A7C15 + counter) % 2**64)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
