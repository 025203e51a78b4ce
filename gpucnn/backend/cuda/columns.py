"""Convolution on CUDA by im2col and cuBLAS, where that is estimated to be faster than our kernels.

The columns of a window are written to memory and read again, which an implicit GEMM does not do; cuBLAS multiplies faster.
Which of the two weighs more depends on the number of filters, on the size of the window and on the precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpucnn.backend import ops
from gpucnn.backend.cuda import wide_conv
from gpucnn.backend.cuda.blas import product
from gpucnn.backend.cuda.conv import Shape, im2col, sizes, takes, transpose_pages
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.geometry import Window


@dataclass(frozen=True)
class Rates:
    """Operations per second (two for a multiplication) on an H100."""

    cublas: float
    wide: float
    wide_weights: float
    """The weight gradient of the wide kernels."""
    other: float
    """The kernels that serve every shape."""


# Estimates (docs/gpu.md): of our kernels by their instruction mix. Nothing was measured on a device yet.
RATES, RATES_TF32 = Rates(51e12, 45e12, 42e12, 20e12), Rates(400e12, 180e12, 85e12, 25e12)
BANDWIDTH = 3e12
"""Bytes per second."""
MOST_BYTES = 2**29
"""The most bytes of columns at once. More images are worked on in parts."""


def pay(device: CudaDevice, w_shape: Shape, wide: bool, weights: bool = False) -> bool:
    """Whether columns are estimated to be faster than our kernels: for each pixel, by multiplications and memory traffic."""
    F, depth = w_shape[0], w_shape[1] * w_shape[2] * w_shape[3]
    rates = RATES_TF32 if device.in_tf32 else RATES
    ours = rates.other if not wide else rates.wide_weights if weights else rates.wide
    traffic = 4 * (2 * depth + 3 * F) / BANDWIDTH  # columns, written and read; the result, also transposed
    return 2 * F * depth / ours > 2 * F * depth / rates.cublas + traffic


def _any(device: CudaDevice) -> bool:
    """Whether columns serve whatever is estimated: to be proved, or to be timed."""
    return device.proving or device.autotuner is not None


def _forward_serves(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> bool:
    pays = _any(device) or pay(device, w.shape, wide_conv.is_wide(device, x.dtype, w.shape[1], w.shape[0]))
    return groups == 1 and pays and takes(device, x.shape, w.shape, window, groups, x, w, b)


def _input_gradient_serves(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    pays = _any(device) or pay(device, w.shape, wide_conv.is_wide(device, dy.dtype, w.shape[0], w.shape[1]))
    return groups == 1 and pays and takes(device, shape, w.shape, window, groups, dy, w)


def _weight_gradient_serves(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> bool:
    pays = _any(device) or pay(device, shape, wide_conv.has_wide_weights(*shape[:2]), weights=True)
    return groups == 1 and pays and takes(device, x.shape, shape, window, groups, x, dy)


@implements(ops.conv2d, on="cuda", when=_forward_serves, first=True)
def conv2d(device: CudaDevice, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1) -> Array:
    x, w = device.contiguous(x, w)
    F = w.shape[0]
    OH, OW = window.output_size(x.shape[2], x.shape[3])
    y = device.empty("conv2d", (x.shape[0], F, OH, OW), x.dtype)

    def work(images: slice) -> None:
        rows = product(device, im2col(device, x[images], window), w.reshape(F, -1).T, device.in_tf32)
        transpose_pages(device, rows.reshape(-1, OH * OW, F), y[images].reshape(-1, F, OH * OW), b)

    _in_parts(device, "conv2d", y.shape, w.shape, work)
    return y


@implements(ops.conv2d_input_gradient, on="cuda", when=_input_gradient_serves, first=True)
def conv2d_input_gradient(
    device: CudaDevice, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1
) -> Array:
    dy, w = device.contiguous(dy, w)
    dx = device.empty("conv2d_input_gradient", shape, dy.dtype)

    def work(images: slice) -> None:
        columns = product(device, _rows(device, dy[images]), w.reshape(w.shape[0], -1), device.in_tf32)
        part = dx[images]
        device.kernels("conv").each("col2im", part.size, columns, part, *sizes(part.shape, w.shape, window, 1))

    _in_parts(device, "conv2d_input_gradient", dy.shape, w.shape, work)
    return dx


@implements(ops.conv2d_weight_gradient, on="cuda", when=_weight_gradient_serves, first=True)
def conv2d_weight_gradient(
    device: CudaDevice, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    x, dy = device.contiguous(x, dy)
    parts: list[tuple[Array, Array]] = []

    def work(images: slice) -> None:
        rows = _rows(device, dy[images])
        dw = product(device, rows.T, im2col(device, x[images], window), device.in_tf32)
        ones = device.xp.ones((1, rows.shape[0]), rows.dtype)
        parts.append((dw, product(device, ones, rows)))  # CuPy's sum over rows keeps only a few blocks busy

    _in_parts(device, "conv2d_weight_gradient", dy.shape, shape, work)
    dw, db = parts[0]
    for more_w, more_b in parts[1:]:
        dw, db = dw + more_w, db + more_b
    return dw.reshape(shape), db.reshape(shape[0])


def _rows(device: CudaDevice, dy: Array) -> Array:
    """Return dy (N, F, OH, OW) as (N*OH*OW, F)."""
    N, F, OH, OW = dy.shape
    rows = device.empty("conv2d", (N, OH * OW, F), dy.dtype)
    transpose_pages(device, dy.reshape(N, F, OH * OW), rows)
    return rows.reshape(N * OH * OW, F)


def _in_parts(device: CudaDevice, what: str, y_shape: Shape, w_shape: Shape, work: Callable[[slice], None]) -> None:
    """Run ``work`` on as many images as ``MOST_BYTES`` of columns hold; while memory does not suffice, on halves of them."""
    N, _, OH, OW = y_shape
    image = 4 * OH * OW * w_shape[1] * w_shape[2] * w_shape[3]
    step = max(MOST_BYTES // image, 1)
    waiting = [slice(start, min(start + step, N)) for start in reversed(range(0, N, step))]
    while waiting:
        images = waiting.pop()
        try:
            work(images)
        except MemoryError:
            device.free_memory()
            count = images.stop - images.start
            if count == 1:
                raise
            half = images.start + count // 2
            waiting += [slice(half, images.stop), slice(images.start, half)]
            device.ran[f"{what}.halved"] += 1
            import logging  # 5 ms that every start would take

            logging.getLogger("gpucnn").warning(
                "%s: not enough memory on %s for %d images at once: working in halves", what, device.name, count
            )
