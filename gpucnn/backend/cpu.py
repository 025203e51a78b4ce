"""NumPy on the CPU: the hot kernels with the batch innermost in memory, in blocks that fit the cache.

Activations keep their logical shape (N, C, H, W), but kernels return views of (C, H, W, N) memory: each slice that
convolution and pooling take is then one long contiguous run, and the product of filters and columns comes out in place.
Convolutions are shared among processes where their arrays are quickly copied, and large kernels among threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from gpucnn.backend import cpu_conv, cpu_fused, cpu_pool, cpu_rows, processes, workers
from gpucnn.backend.base import Array, Backend, Divisor
from gpucnn.backend.processes import Call, Processes
from gpucnn.backend.threads import BlasThreads, available_threads, blas_threads
from gpucnn.backend.window import Window
from gpucnn.backend.workers import Band, Workers, bands, batches, join, overlap
from gpucnn.backend.workspace import Workspace
from gpucnn.errors import ParameterError

CLEARED_EVERY = 16
"""Steps of Adam after which moments are looked through for the smallest."""
FEW_IMAGES = 16
"""Images of a part up to which its rows are too short: rows of the image are shared then, though they overlap."""


class CpuBackend(Backend):
    """Arrays in the computer's own memory. Kernels are shared among ``threads`` threads, or as many processes up to eight.

    By default ``GPUCNN_THREADS``, or the cores that the process may use. Sets the BLAS to one thread, for the whole process,
    or to ``GPUCNN_BLAS_THREADS``; where that is more than one, the BLAS shares its products and nothing else is shared.
    """

    name = "cpu"
    xp = np

    def __init__(self, threads: int | None = None) -> None:
        super().__init__()
        if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
            raise ParameterError.expected("CpuBackend", "threads", "a positive int", repr(threads))
        self.blas = BlasThreads(blas_threads())
        count = available_threads() if threads is None else threads
        self.workers = Workers(count if blas_threads() == 1 else 1)
        self.processes = Processes(self.workers.count)
        self.workspace = Workspace()

    @property
    def limit_of_a_thread(self) -> int:
        """The share of the workspace's limit that is a thread's or a process's, where a kernel is shared."""
        return max(self.workspace.limit // self.workers.count, 1)

    def to_host(self, array: Array) -> Any:
        return np.array(array, order="C")

    def active(self) -> Any:
        return np.errstate(all="ignore")  # 1 / 0 is infinity and 0 / 0 NaN without a warning, as on a GPU

    def describe(self) -> dict[str, Any]:
        return {"device": self.name, "threads": max(self.workers.count, self.blas.count), "blas": self.blas.names()}

    def _bit_generator(self, key: list[int]) -> Any:
        return np.random.Philox(key=key)

    # --- batch-innermost memory --------------------------------------------------------------------------------

    def innermost(self, x: Array) -> Array:
        """Return (N, C, H, W) ``x`` as (C, H, W, N) with each channel C-ordered: itself where its memory is so already.

        A channel repeated by a stride of 0 is copied: NumPy multiplies such a matrix without the BLAS, to other bits.
        """
        y = x.transpose(1, 2, 3, 0)
        if y.strides[0] and y[:1].flags.c_contiguous:
            return y
        copy = self.workspace.empty(y.shape, y.dtype)
        if x.flags.c_contiguous:  # a 2-D transposition is the fastest way from batch-outermost memory
            np.copyto(copy.reshape(-1, x.shape[0]), x.reshape(x.shape[0], -1).T)
        else:
            np.copyto(copy, y)
        return copy

    def empty_innermost(self, shape: tuple[int, int, int, int], dtype: Any) -> Array:
        """Return uninitialised (N, C, H, W) with the batch innermost in memory."""
        N, C, H, W = shape
        return self.workspace.empty((C, H, W, N), dtype).transpose(3, 0, 1, 2)

    # --- convolution -------------------------------------------------------------------------------------------

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
        if not x.size:
            return super().conv2d(x, w, b, window, groups)
        self.ran["conv2d.fast"] += 1
        return self._convolve(x, w, b, window, groups)

    def _convolve(self, x: Array, w: Array, b: Array | None, window: Window, groups: int) -> Array:
        how = self._convolution(x.shape, w.shape, window, groups, x.itemsize)
        y = self.empty_innermost((x.shape[0], w.shape[0], *window.output_size(*x.shape[2:])), x.dtype)
        self._share(
            Call(how.forward, band.window, (x[:, :, band.seen], w, b), (y[:, :, band.rows],), (groups,))
            for band in self._bands(x.shape, w.shape, window)
        )
        return y

    def conv2d_input_gradient(
        self, dy: Array, w: Array, shape: tuple[int, int, int, int], window: Window, groups: int = 1
    ) -> Array:
        if not dy.size:
            return super().conv2d_input_gradient(dy, w, shape, window, groups)
        self.ran["conv2d_input_gradient.fast"] += 1
        turned = cpu_rows.turned_window(window)
        if window.stride == (1, 1) and min(turned.padding) >= 0:
            return self._convolve(dy, cpu_rows.turned_filters(w, groups), None, turned, groups)
        small = math.prod(shape) * dy.itemsize <= self.workspace.limit
        plan = self._bands(shape, w.shape, window) if small else bands(window, shape[2], dy.shape[2], 1, 1)
        dx, parts = self._image_parts(shape, dy.dtype, plan)
        self._share(
            Call(cpu_conv.input_gradient, band.window, (dy[:, :, band.rows], w), (part,), (groups,))
            for band, part in zip(plan, parts, strict=True)
        )
        join(parts, plan, dx)
        return dx

    def _image_parts(self, shape: tuple[int, int, int, int], dtype: Any, plan: list[Band]) -> tuple[Array, list[Array]]:
        """Return memory for the gradient of images, and what each part writes: some of it, or an array to be joined."""
        N, C, _, W = shape
        dx = self.empty_innermost(shape, dtype)
        if not overlap(plan):
            return dx, [dx[part.images] for part in plan]
        return dx, [self.empty_innermost((N, C, part.seen.stop - part.seen.start, W), dtype) for part in plan]

    def conv2d_weight_gradient(
        self, x: Array, dy: Array, shape: tuple[int, int, int, int], window: Window, groups: int = 1
    ) -> tuple[Array, Array]:
        if not dy.size:
            return super().conv2d_weight_gradient(x, dy, shape, window, groups)
        self.ran["conv2d_weight_gradient.fast"] += 1
        how = self._convolution(x.shape, shape, window, groups, x.itemsize, cpu_rows.LONG_SUM)
        plan = self._bands(x.shape, shape, window)
        parts = [(np.empty(shape, x.dtype), np.empty(shape[0], x.dtype)) for _ in plan]
        self._share(
            Call(how.weight_gradient, band.window, (x[:, :, band.seen], dy[:, :, band.rows]), part, (groups,))
            for band, part in zip(plan, parts, strict=True)
        )
        return _summed(parts)

    def _convolution(
        self, shape: Any, w_shape: Any, window: Window, groups: int, itemsize: int, least: int | None = None
    ) -> Any:
        """Return the room whose convolution is the faster one here."""
        by_rows = cpu_rows.handles(shape, w_shape, window, groups, itemsize, self.limit_of_a_thread, least)
        return cpu_rows if by_rows else cpu_conv

    def _bands(self, shape: Any, w_shape: Any, window: Window) -> list[Band]:
        """Return the bands of output rows of a convolution that are done at the same time; one for too little work."""
        OH, _ = window.output_size(*shape[2:])
        return bands(window, shape[2], OH, 1, self._parts(shape, w_shape, window))

    def _parts(self, shape: Any, w_shape: Any, window: Window, pool: int = 1) -> int:
        """Return how many parts a convolution is worth, for processes or for threads; ``pool`` pixels become one."""
        N, C, H, W = shape
        OH, OW = window.output_size(H, W)
        pixels = N * OH * OW
        work = 2 * pixels * math.prod(w_shape)
        if work < processes.HANDING_OVER:
            return 1
        if self.processes.takes(4 * (N * C * H * W + pixels // pool * w_shape[0])):  # bytes of float32
            return self.processes.parts(work)
        return max(min(self.workers.count, int(work // workers.LEAST_PART)), 1)

    def _share(self, calls: Iterable[Call]) -> None:
        """Do the calls at the same time: in processes what is quickly copied, in threads what is large."""
        calls = list(calls)
        if len(calls) == 1:
            calls[0].run(self)
        elif len(calls) <= self.processes.count and self.processes.takes(sum(call.nbytes for call in calls)):
            self.processes.run(self, calls, self.limit_of_a_thread)
        else:
            self.workers.run(lambda call: call.run(self), calls)

    def conv2d_relu_max_pool2d(
        self, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_place: bool = True
    ) -> tuple[Array, Array | None]:
        if not cpu_fused.handles(x, w, window, groups, self.workspace.limit):
            return super().conv2d_relu_max_pool2d(x, w, b, window, groups, needs_place)
        self.ran["conv2d_relu_max_pool2d.fast"] += 1
        OH, OW = window.output_size(*x.shape[2:])
        shape = (x.shape[0], w.shape[0], OH // 2, OW // 2)
        y = self.empty_innermost(shape, x.dtype)
        place = self.empty_innermost(shape, np.uint8) if needs_place else None
        self._share(
            Call(
                cpu_fused.forward,
                part.window,
                (x[part.images, :, part.seen], w, b),
                (y[part.images, :, part.rows], None if place is None else place[part.images, :, part.rows]),
            )
            for part in self._pooled_parts(x.shape, w.shape, window)
        )
        return y, place

    def _pooled_parts(self, shape: Any, w_shape: Any, window: Window) -> list[Band]:
        """Return the parts of convolution with pooling: some of the images, or where those are few, some rows of all."""
        count = self._parts(shape, w_shape, window, 4)
        OH, _ = window.output_size(*shape[2:])
        if shape[0] >= FEW_IMAGES * count:
            return batches(window, shape[0], shape[2], OH // 2, count)
        return bands(window, shape[2], OH // 2, 2, count)

    def conv2d_relu_max_pool2d_gradients(
        self, x: Array, w: Array, dy: Array, place: Array, window: Window, groups: int, needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None, Array | None]:
        if not cpu_fused.handles(x, w, window, groups, self.workspace.limit):
            return super().conv2d_relu_max_pool2d_gradients(x, w, dy, place, window, groups, needs)
        self.ran["conv2d_relu_max_pool2d_gradients.fast"] += 1
        plan = self._pooled_parts(x.shape, w.shape, window)
        dx, dx_parts = self._image_parts(x.shape, dy.dtype, plan) if needs[0] else (None, [None] * len(plan))
        parts = [(np.empty_like(w), np.empty(w.shape[0], w.dtype)) if needs[1] else (None, None) for _ in plan]
        self._share(
            Call(
                cpu_fused.gradients,
                part.window,
                (x[part.images, :, part.seen], w, dy[part.images, :, part.rows], place[part.images, :, part.rows]),
                (dx_part, *sums),
            )
            for part, dx_part, sums in zip(plan, dx_parts, parts, strict=True)
        )
        if dx is not None:
            join(dx_parts, plan, dx)
        return dx, *(_summed(parts) if needs[1] else (None, None))

    # --- pooling -----------------------------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window, needs_place: bool = True) -> tuple[Array, Array | None]:
        if not x.size:
            return super().max_pool2d(x, window, needs_place)
        self.ran["max_pool2d.fast"] += 1
        return cpu_pool.maximum(self, x, window, needs_place)

    def max_pool2d_gradient(self, dy: Array, place: Array, shape: tuple[int, int, int, int], window: Window) -> Array:
        if not dy.size:
            return super().max_pool2d_gradient(dy, place, shape, window)
        self.ran["max_pool2d_gradient.fast"] += 1
        return cpu_pool.maximum_gradient(self, dy, place, shape, window)

    def avg_pool2d(self, x: Array, window: Window, divisor: Divisor) -> Array:
        if not x.size:
            return super().avg_pool2d(x, window, divisor)
        self.ran["avg_pool2d.fast"] += 1
        return cpu_pool.average(self, x, window, divisor)

    def avg_pool2d_gradient(
        self, dy: Array, shape: tuple[int, int, int, int], window: Window, divisor: Divisor
    ) -> Array:
        if not dy.size:
            return super().avg_pool2d_gradient(dy, shape, window, divisor)
        self.ran["avg_pool2d_gradient.fast"] += 1
        return cpu_pool.average_gradient(self, dy, shape, window, divisor)

    # --- products and activation -------------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array) -> Array:
        if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype or a.dtype.kind != "f" or a.shape[1] != b.shape[0]:
            return np.matmul(a, b)
        if not a.flags.c_contiguous and a.flags.f_contiguous and b.flags.f_contiguous:
            return self.matmul(b.T, a.T).T  # batch-innermost rows come out batch-innermost
        y = self.workspace.empty((a.shape[0], b.shape[1]), a.dtype)
        count = min(self.workers.count, int(2 * a.size * b.shape[1] // workers.LEAST_PART))
        if count < 2:
            return np.matmul(a, b, out=y)
        parts = [slice(len(a) * i // count, len(a) * (i + 1) // count) for i in range(count)]
        self.workers.run(lambda rows: np.matmul(a[rows], b, out=y[rows]), parts)
        return y

    def relu(self, x: Array) -> Array:
        return self._elementwise(lambda a, out: np.maximum(a, 0, out=out), x)

    def relu_gradient(self, dy: Array, y: Array) -> Array:
        return self._elementwise(_where_positive, dy, y)

    def _elementwise(self, function: Any, *arrays: Array) -> Array:
        """Return ``function`` of arrays of one shape, in the first one's memory order."""
        first = arrays[0]
        if all(array.flags.c_contiguous for array in arrays):
            y = self.workspace.empty(first.shape, first.dtype)
            function(*arrays, y)
            return y
        order = sorted(range(first.ndim), key=lambda axis: (-abs(first.strides[axis]), axis))
        ordered = [array.transpose(order) for array in arrays]
        y = self.workspace.empty(ordered[0].shape, first.dtype)
        result = y.transpose(sorted(range(first.ndim), key=order.__getitem__))
        function(*ordered, y)
        return result

    # --- data and optimisers -----------------------------------------------------------------------------------

    def gather(self, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> Array:
        chosen = images[indices]
        N, C, H, W = chosen.shape
        y = self.workspace.empty((C, H, W, N), dtype)
        np.multiply(chosen.transpose(1, 2, 3, 0), scale[:, None, None, None], out=y, casting="unsafe")
        y += shift[:, None, None, None]
        return y.transpose(3, 0, 1, 2)

    def sgd_update(
        self, p: Array, g: Array, velocity: Array | None, *, where: Array | bool = True, **numbers: Any
    ) -> None:
        if not where:
            return
        lr, momentum = numbers["lr"], numbers["momentum"]
        if numbers["weight_decay"]:
            g = g + numbers["weight_decay"] * p
        if velocity is not None:
            velocity *= momentum
            velocity += g
            _clear_smallest(velocity)
            g = g + momentum * velocity if numbers["nesterov"] else velocity
        p -= lr * g

    def adam_update(
        self, p: Array, g: Array, m: Array, v: Array, *, where: Array | bool = True, **numbers: Any
    ) -> None:
        if not where:
            return
        _adam(p, g, m, v, **numbers)


def _summed(parts: list[Any]) -> tuple[Array, Array]:
    """Return the sums of dL/dw and of dL/db over the parts of a kernel, in the first one's memory."""
    dw, db = parts[0]
    for more_dw, more_db in parts[1:]:
        dw += more_dw
        db += more_db
    return dw, db


def _where_positive(dy: Array, y: Array, out: Array) -> None:
    """out = dy where y > 0, else 0, by bits: dy * (y > 0) makes NaN of infinity, and a choice takes ten times as long."""
    bits = np.dtype(f"i{dy.itemsize}")
    np.bitwise_and(dy.view(bits), np.negative((y > 0).view(np.int8)), out=out.view(bits))


def _adam(
    p: Array, g: Array, m: Array, v: Array, *,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int, decoupled: bool = False,
) -> None:  # fmt: skip
    """The update of ``Backend.adam_update``, with one array of scratch."""
    if weight_decay and decoupled:
        p *= 1 - lr * weight_decay
    elif weight_decay:
        g = g + weight_decay * p
    scratch = np.multiply(g, 1 - beta1)
    m *= beta1
    m += scratch
    np.multiply(g, g, out=scratch)
    scratch *= 1 - beta2
    v *= beta2
    v += scratch
    np.sqrt(v, out=scratch)
    scratch /= (1 - beta2**step) ** 0.5
    scratch += eps
    np.divide(m, scratch, out=scratch)
    scratch *= lr / (1 - beta1**step)
    p -= scratch
    if step % CLEARED_EVERY == 0:
        _clear_smallest(m)
        if eps * eps > _smallest(v):  # else its root counts beside eps
            _clear_smallest(v)


def _smallest(array: Array) -> float:
    return float(np.finfo(array.dtype).tiny) * 2.0**26


def _clear_smallest(array: Array) -> None:
    """Set to zero what would soon be subnormal, as running means of zero gradients would: cores are slow at such numbers.

    LeNet at batch 64 after 1,500 steps at batch 1: 42,000 of 61,706 momenta were subnormal, and Adam took 0.94 ms, not 0.14.
    """
    np.copyto(array, 0, where=np.abs(array) < _smallest(array))
