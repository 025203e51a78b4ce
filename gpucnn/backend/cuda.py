"""CUDA through CuPy: the kernels of ``kernels.cu`` for float32, and the reference of ``base.py`` for everything else."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpucnn.backend import cuda_conv, cuda_feeding, cuda_pool, cuda_products, cuda_updates
from gpucnn.backend.base import PAIRS, Array, Backend, Divisor
from gpucnn.backend.cuda_autotune import Autotuner
from gpucnn.backend.cuda_capture import Graph
from gpucnn.backend.cuda_kernels import TF32, Kernels
from gpucnn.backend.generator import Generator
from gpucnn.backend.half import HALF
from gpucnn.backend.recording import Recording
from gpucnn.backend.window import Window
from gpucnn.errors import DeviceError, OutOfMemoryError

INSTALL = "pip install 'gpucnn[cuda13]' (or cuda12 for drivers older than 580)"
LESS = "Use smaller batches, or end other programs on this GPU."


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

    # --- recorded steps ----------------------------------------------------------------------------------------

    @property
    def recording(self) -> Recording | None:
        return getattr(self._thread, "recording", None)

    @recording.setter
    def recording(self, recording: Recording | None) -> None:
        self._thread.recording = recording

    def new_graph(self) -> Graph:
        return Graph(self)

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
        return array.get(order="C")

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
    def active(self) -> Iterator[None]:
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

    def _bit_generator(self, key: list[int]) -> Any:
        seed, counter = key
        return self.xp.random.Philox4x3210(seed=(seed * 0x9E3779B97F4A7C15 + counter) % 2**64)

    def dropout_mask(self, shape: tuple[int, ...], p: float, dtype: Any, generator: Generator) -> Array:
        if dtype == HALF:
            return self.dropout_mask(shape, p, np.float32, generator).astype(HALF)
        if dtype != np.float32 or p >= 1 or 0 in shape:
            return super().dropout_mask(shape, p, dtype, generator)
        self.ran["dropout_mask.fast"] += 1
        return cuda_products.dropout_mask(self, shape, p, generator)

    # --- convolution -------------------------------------------------------------------------------------------

    def im2col(self, x: Array, window: Window) -> Array:
        N, C, H, W = x.shape
        if not cuda_conv.handles(x.shape, (1, C, *window.kernel), window, 1, x):
            return super().im2col(x, window)
        self.ran["im2col.fast"] += 1
        return cuda_conv.im2col(self, x, window)

    def col2im(self, columns: Array, shape: tuple[int, int, int, int], window: Window) -> Array:
        if not cuda_conv.handles(shape, (1, shape[1], *window.kernel), window, 1, columns):
            return super().col2im(columns, shape, window)
        self.ran["col2im.fast"] += 1
        return cuda_conv.col2im(self, columns, shape, window)

    def _choose(self, what: str, key: Any, implicit: Callable[[], Any], columns: Callable[[], Any]) -> Any:
        """Run one of two ways to the same result: the one in the table, or, autotuning, the faster one."""
        w_shape, groups = key[1], key[3]
        if self.autotuner is not None and groups == 1:
            case = (what, *key, "tf32") if self.in_tf32 else (what, *key)
            return self.autotuner.run(case, {"implicit": implicit, "columns": columns})
        return columns() if cuda_conv.takes_columns(w_shape, groups) else implicit()

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
        if not cuda_conv.handles(x.shape, w.shape, window, groups, x, w, b):
            return super().conv2d(x, w, b, window, groups)
        self.ran["conv2d.fast"] += 1
        return self._choose(
            "conv2d", (x.shape, w.shape, window, groups),
            lambda: cuda_conv.forward(self, x, w, b, window, groups),
            lambda: cuda_conv.columns_forward(self, x, w, b, window),
        )  # fmt: skip

    def conv2d_input_gradient(
        self, dy: Array, w: Array, shape: tuple[int, int, int, int], window: Window, groups: int = 1
    ) -> Array:
        if not cuda_conv.handles(shape, w.shape, window, groups, dy, w):
            return super().conv2d_input_gradient(dy, w, shape, window, groups)
        self.ran["conv2d_input_gradient.fast"] += 1
        return self._choose(
            "conv2d_input_gradient", (shape, w.shape, window, groups),
            lambda: cuda_conv.input_gradient(self, dy, None, w, shape, window, groups),
            lambda: cuda_conv.columns_input_gradient(self, dy, w, shape, window),
        )  # fmt: skip

    def conv2d_weight_gradient(
        self, x: Array, dy: Array, shape: tuple[int, int, int, int], window: Window, groups: int = 1
    ) -> tuple[Array, Array]:
        if not cuda_conv.handles(x.shape, shape, window, groups, x, dy):
            return super().conv2d_weight_gradient(x, dy, shape, window, groups)
        self.ran["conv2d_weight_gradient.fast"] += 1
        chosen: tuple[Array, Array] = self._choose(
            "conv2d_weight_gradient", (x.shape, shape, window, groups),
            lambda: cuda_conv.weight_gradient(self, x, dy, None, shape, window, groups),
            lambda: cuda_conv.columns_weight_gradient(self, x, dy, shape, window),
        )  # fmt: skip
        return chosen

    def _fuses(self, x: Array, w: Array, window: Window, groups: int, *arrays: Any) -> bool:
        fits = cuda_conv.handles(x.shape, w.shape, window, groups, x, w, *arrays)
        return fits and not cuda_conv.takes_columns(w.shape, groups)

    def conv2d_relu_max_pool2d(
        self, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_place: bool = True
    ) -> tuple[Array, Array | None]:
        if not self._fuses(x, w, window, groups, b):
            return super().conv2d_relu_max_pool2d(x, w, b, window, groups, needs_place)
        self.ran["conv2d_relu_max_pool2d.fast"] += 1
        return cuda_conv.relu_pool_forward(self, x, w, b, window, groups, needs_place)

    def conv2d_relu_max_pool2d_gradients(
        self, x: Array, w: Array, dy: Array, place: Array, window: Window, groups: int, needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None, Array | None]:
        if not self._fuses(x, w, window, groups, dy) or not cuda_pool.knows_place(place, PAIRS):
            return super().conv2d_relu_max_pool2d_gradients(x, w, dy, place, window, groups, needs)
        self.ran["conv2d_relu_max_pool2d_gradients.fast"] += 1
        dx = cuda_conv.input_gradient(self, dy, place, w, x.shape, window, groups) if needs[0] else None
        if not needs[1]:
            return dx, None, None
        return (dx, *cuda_conv.weight_gradient(self, x, dy, place, w.shape, window, groups))

    # --- pooling and normalisation -----------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window, needs_place: bool = True) -> tuple[Array, Array | None]:
        if not cuda_pool.handles(x):
            return super().max_pool2d(x, window, needs_place)
        self.ran["max_pool2d.fast"] += 1
        return cuda_pool.maximum(self, x, window, needs_place)

    def max_pool2d_gradient(self, dy: Array, place: Array, shape: tuple[int, int, int, int], window: Window) -> Array:
        if not cuda_pool.handles(dy) or not cuda_pool.knows_place(place, window):
            return super().max_pool2d_gradient(dy, place, shape, window)
        self.ran["max_pool2d_gradient.fast"] += 1
        return cuda_pool.maximum_gradient(self, dy, place, shape, window)

    def avg_pool2d(self, x: Array, window: Window, divisor: Divisor) -> Array:
        if not cuda_pool.handles(x):
            return super().avg_pool2d(x, window, divisor)
        self.ran["avg_pool2d.fast"] += 1
        return cuda_pool.average(self, x, window, divisor)

    def avg_pool2d_gradient(
        self, dy: Array, shape: tuple[int, int, int, int], window: Window, divisor: Divisor
    ) -> Array:
        if not cuda_pool.handles(dy):
            return super().avg_pool2d_gradient(dy, shape, window, divisor)
        self.ran["avg_pool2d_gradient.fast"] += 1
        return cuda_pool.average_gradient(self, dy, shape, window, divisor)

    def standardise(self, x: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array]:
        if not cuda_pool.standardises(x, axes):
            return super().standardise(x, axes, eps)
        self.ran["standardise.fast"] += 1
        return cuda_pool.standardise(self, x, eps)

    def standardise_gradient(self, dy: Array, y: Array, factor: Array, axes: tuple[int, ...]) -> Array:
        if not cuda_pool.standardises(y, axes):
            return super().standardise_gradient(dy, y, factor, axes)
        self.ran["standardise_gradient.fast"] += 1
        return cuda_pool.standardise_gradient(self, dy, y, factor)

    # --- products, activation, loss ----------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array) -> Array:
        if not cuda_products.handles(a, b):
            return super().matmul(a, b)
        self.ran["matmul.fast"] += 1
        return cuda_products.product(self, a, b)

    def affine(self, x: Array, w: Array, b: Array | None) -> Array:
        if not cuda_products.handles(x, w.T):
            return super().affine(x, w, b)
        self.ran["affine.fast"] += 1
        return cuda_products.product(self, x, w.T, None if b is None else self.contiguous(b)[0])

    def affine_parameter_gradients(self, x: Array, dy: Array) -> tuple[Array, Array]:
        if not cuda_products.handles(dy.T, x):
            return super().affine_parameter_gradients(x, dy)
        self.ran["affine_parameter_gradients.fast"] += 1
        return cuda_products.product_and_sums(self, dy.T, x)

    def relu(self, x: Array) -> Array:
        if x.dtype != np.float32 or not x.size or not x.flags.c_contiguous:
            return super().relu(x)
        self.ran["relu.fast"] += 1
        return cuda_products.relu(self, x)

    def relu_gradient(self, dy: Array, y: Array) -> Array:
        if not (dy.dtype == y.dtype == np.float32) or not y.size or dy.shape != y.shape:
            return super().relu_gradient(dy, y)
        self.ran["relu_gradient.fast"] += 1
        return cuda_products.relu_gradient(self, dy, y)

    def cross_entropy(self, logits: Array, target: Array, needs_gradient: bool) -> tuple[Array, Array | None]:
        if logits.dtype != np.float32 or not logits.size:
            return super().cross_entropy(logits, target, needs_gradient)
        self.ran["cross_entropy.fast"] += 1
        return cuda_products.cross_entropy(self, logits, target, needs_gradient)

    def mean_loss(self, losses: Array, divisor: float) -> Array:
        if losses.dtype != np.float32 or not 0 < losses.size <= cuda_products.LOSSES or losses.ndim != 1:
            return super().mean_loss(losses, divisor)
        self.ran["mean_loss.fast"] += 1
        return cuda_products.mean_loss(self, losses, divisor)

    def scale(self, x: Array, factor: Array, divisor: float) -> Array:
        if not (x.dtype == factor.dtype == np.float32) or not x.size or not x.flags.c_contiguous:
            return super().scale(x, factor, divisor)
        self.ran["scale.fast"] += 1
        return cuda_products.scale(self, x, factor, divisor)

    # --- data and optimisers -----------------------------------------------------------------------------------

    def gather(self, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> Array:
        if dtype == HALF and scale.dtype == np.float32:
            return self.gather(images, indices, scale, shift, np.float32).astype(HALF)
        if (
            images.dtype != np.uint8
            or indices.dtype != np.int64
            or dtype != np.float32
            or not (images.size * indices.size)
        ):
            return super().gather(images, indices, scale, shift, dtype)
        self.ran["gather.fast"] += 1
        return cuda_updates.gather(self, images, indices, scale, shift)

    def gather_next(self, images: Array, labels: Array, order: Array, seen: Array, count: int, *scaling: Any) -> Any:
        scale, shift, dtype = scaling
        if images.dtype != np.uint8 or labels.dtype != np.int64 or dtype != np.float32:
            return super().gather_next(images, labels, order, seen, count, *scaling)
        self.ran["gather_next.fast"] += 1
        return cuda_feeding.gather_next(self, images, labels, order, seen, count, scale, shift)

    def add_totals(self, sums: Array, loss: Array, logits: Array, labels: Array) -> None:
        if not (loss.dtype == logits.dtype == np.float32) or labels.dtype != np.int64 or not logits.size:
            return super().add_totals(sums, loss, logits, labels)
        self.ran["add_totals.fast"] += 1
        cuda_feeding.add_totals(self, sums, loss, logits, labels)

    def fits(self, size: int) -> bool:
        return cuda_feeding.fits(self, size)

    def stream(self, batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
        return cuda_feeding.stream(self, batches)

    def copy_all(self, pairs: Sequence[tuple[Array, Array]]) -> None:
        plain = [pair for pair in pairs if cuda_updates.handles(*pair)]
        super().copy_all([pair for pair in pairs if not cuda_updates.handles(*pair)])
        for first in range(0, len(plain), cuda_updates.PIECES):
            self.ran["copy_all.fast"] += 1
            cuda_updates.copy_pieces(self, plain[first : first + cuda_updates.PIECES])

    def sgd_update(
        self, p: Array, g: Array, velocity: Array | None, *, where: Array | bool = True, **numbers: Any
    ) -> None:
        if not cuda_updates.handles(p, g, velocity):
            return super().sgd_update(p, g, velocity, where=where, **numbers)
        self.ran["sgd_update.fast"] += 1
        if where is not False:
            cuda_updates.sgd(self, p, g, velocity, where, **numbers)

    def adam_update(
        self, p: Array, g: Array, m: Array, v: Array, *, where: Array | bool = True, **numbers: Any
    ) -> None:
        if not cuda_updates.handles(p, g, m, v):
            return super().adam_update(p, g, m, v, where=where, **numbers)
        self.ran["adam_update.fast"] += 1
        if where is not False:
            cuda_updates.adam(self, p, g, m, v, where, **numbers)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
