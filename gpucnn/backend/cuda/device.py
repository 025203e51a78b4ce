"""CUDA through CuPy: a GPU's memory, streams and kernels.

The kernels of the ``.cu`` files serve float32. Everything else uses the references in ``ops``, on CuPy.
"""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn.backend.cuda.autotune import Autotuner
from gpucnn.backend.cuda.launch import FAMILIES, IN_TILES, STORING, Kernels, options_for
from gpucnn.backend.device import Array, Device
from gpucnn.backend.precision import HALF
from gpucnn.errors import DeviceError, OutOfMemoryError, how_to_add

OLDER = "(or cuda12 for drivers older than 580)"
RESIDENT_SHARE = 0.5
"""The share of free memory that a data set on the device may use. The remainder is for training."""
LESS = "Use smaller batches, or end other programs on this GPU."


_in_use: weakref.WeakSet[CudaDevice] = weakref.WeakSet()


class _Lost:
    """Stands for a device in a forked process: CUDA works in the process that began with it, and nowhere else."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        raise DeviceError(
            f"{self._name} was in use when this process was forked, and CUDA does not work in the fork. Start processes "
            f"by multiprocessing.get_context('spawn'), or use the GPU after the fork only."
        )

    def __exit__(self, *error: object) -> None: ...


def _lose() -> None:
    for device in _in_use:
        device._device = _Lost(device.name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose)


class CudaDevice(Device):
    """The GPU with number ``index`` and its arrays. Raises DeviceError, with the reason, if it cannot compute."""

    kind = "cuda"
    captures = True
    proof: Callable[[bool], dict[str, str]]
    """Checks the kernels (``proof.prove``); the argument says whether thoroughly."""
    half_proof: Callable[[], bool]
    """Checks those of float16 (``proof.prove_half``)."""

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
        self._kernels: dict[tuple[str, tuple[str, ...]], Kernels] = {}
        self.variants: dict[Any, bool] = {}
        """The kernels compiled for a kernel size, and whether they gave correct results."""
        self.proving = False  # all of them are tried
        self._half: bool | None = None  # whether those of float16 gave correct results
        self._thread = threading.local()
        self._constants: dict[Any, Array] = {}
        _in_use.add(self)
        self._pools: dict[int, Any] = {}
        self._retired: set[int] = set()
        self.autotuner = Autotuner(self.xp) if os.environ.get("GPUCNN_AUTOTUNE") == "1" else None

    def _probe(self) -> None:
        """Run a small computation, which detects a missing driver, NVRTC or cuBLAS."""
        try:
            count = self.xp.cuda.runtime.getDeviceCount()
        except Exception as error:  # CuPy's exception classes need a working CuPy
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
    def capture_state(self) -> Any:
        """The capture state (``CaptureState``) of this thread while it observes or captures a step; otherwise None."""
        return getattr(self._thread, "capture_state", None)

    @capture_state.setter
    def capture_state(self, state: Any) -> None:
        self._thread.capture_state = state

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
        """Whether ``size`` bytes leave enough free memory, counting free memory of CuPy's pool."""
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
            except MemoryError as error:  # from CuPy's own operations
                self.free_memory()
                raise OutOfMemoryError(f"{self.name}: {_one_line(error)} {self._free()} {LESS}") from None

    def kernels(self, family: str, dtype: Any = np.float32, macros: tuple[str, ...] = ()) -> Kernels:
        """Return the kernels of a family for arrays of a dtype, with these options -DNAME=VALUE.

        Products are those of this thread's precision, float32 or TF32.
        """
        return self._compiled(family, options_for(family, self.tiles_in_tf32(dtype), dtype == HALF, macros))

    def takes(self, *arrays: Any) -> bool:
        """Whether kernels serve arrays of these dtypes (None: one that is absent): all float32, or all float16."""
        first = arrays[0].dtype
        return all(array is None or array.dtype == first for array in arrays) and self.takes_dtype(first)

    def takes_dtype(self, dtype: Any) -> bool:
        """Whether kernels read and write this dtype: float32, or float16 if they gave correct results when first asked."""
        return bool(dtype == np.float32 or (dtype == HALF and self._trusts_half()))

    def _trusts_half(self) -> bool:
        if self._half is None and not self.proving:
            if self.capture_state is not None and self.capture_state.mode == "capture":
                return False  # nothing can be compiled in a capture; the eager run before it compiles
            self._half = self.half_proof()
        return self.proving or self._half is True

    def tiles_in_tf32(self, dtype: Any) -> bool:
        """Whether products of arrays of this dtype run in TF32: where the thread chose so, and in float16 if it is there."""
        return self.in_tf32 or bool(self.has_tf32 and dtype == HALF)

    def _compiled(self, family: str, options: tuple[str, ...]) -> Kernels:
        key = family, options
        if key not in self._kernels:
            self._kernels[key] = Kernels(self.xp, family, options)
        return self._kernels[key]

    def verify(self) -> dict[str, str]:
        return self.proof(True)

    def warm_up(self) -> None:
        with self._device:
            for tf32, half, families in (
                (False, False, FAMILIES), (True, False, IN_TILES if self.has_tf32 else ()), (self.has_tf32, True, STORING),
            ):  # fmt: skip
                for family in families:
                    self._compiled(family, options_for(family, tf32, half)).compile()

    def contiguous(self, *arrays: Array) -> list[Array]:
        """Return the arrays in C order, copied only if necessary."""
        return [self.xp.ascontiguousarray(array) for array in arrays]

    def constant(self, values: tuple[float, ...], dtype: Any) -> Array:
        """Return an array of constant values, which is copied to the device once."""
        key = (values, np.dtype(dtype).char)
        if key not in self._constants:
            self._constants[key] = self.asarray(np.array(values, dtype))
        return self._constants[key]

    def empty(self, what: str, shape: Sequence[int], dtype: Any) -> Array:
        """Return uninitialised memory; OutOfMemoryError, naming ``what``, if there is none even after freeing the pool."""
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

    def new_pool(self) -> Any:
        """Return a memory pool of its own, until ``retire`` is called with it."""
        with self._device:
            pool = self.xp.cuda.MemoryPool()
        self._pools[id(pool)] = pool
        return pool

    def retire(self, pool: Any) -> None:
        """Return a pool's memory to the driver: what is unused now, the remainder when memory is freed later."""
        self._retired.add(id(pool))
        if not isinstance(self._device, _Lost):
            self._free_pools()

    def free_memory(self) -> None:
        """Return unused memory to the driver: that of CuPy's pool and those of captured steps."""
        with self._device:
            self.xp.get_default_memory_pool().free_all_blocks()
        self._free_pools()

    def _free_pools(self) -> None:
        with self._device:
            for key, pool in list(self._pools.items()):
                pool.free_all_blocks()
                if key in self._retired and not pool.total_bytes():
                    self._retired.discard(key)
                    del self._pools[key]

    # --- random numbers ----------------------------------------------------------------------------------------

    def bit_generator(self, key: list[int]) -> Any:
        seed, counter = key
        return self.xp.random.Philox4x3210(seed=(seed * 0x9E3779B97F4A7C15 + counter) % 2**64)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
