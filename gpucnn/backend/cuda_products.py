"""Matrix products, activation, loss and dropout on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.cuda_kernels import THREADS, int32
from gpucnn.backend.generator import Generator

if TYPE_CHECKING:
    from gpucnn.backend.cuda import CudaBackend

Array = Any

# Not measured on a device yet.
CUBLAS_FROM = 2**30
"""Multiplications from which a product is left to cuBLAS, which a captured step cannot contain."""
LARGE_TILES = 128
"""Tiles of 64 x 64 from which they fill a GPU; below that, smaller ones spread the work over more blocks."""
# The side of a tile and its threads, as the kernels in kernels.cu are instantiated.
LARGE, SMALL, SMALL_TF32 = (64, 256), (16, 256), (32, 128)

LOSSES = 65_536
"""Losses that one block sums."""


def in_order(backend: CudaBackend, a: Array) -> tuple[str, Array]:
    """Return "n" and a C-ordered matrix as it lies in memory, or "t" and the transpose of one that is the other way round.

    A matrix in any other order is copied.
    """
    if not a.flags.c_contiguous and a.flags.f_contiguous:
        return "t", a.T
    return "n", backend.contiguous(a)[0]


def handles(a: Array, b: Array) -> bool:
    """Whether our kernels take the product of two matrices."""
    if a.ndim != 2 or b.ndim != 2 or not (a.dtype == b.dtype == np.float32) or a.shape[1] != b.shape[0]:
        return False
    return bool(0 < a.shape[0] * a.shape[1] * b.shape[1] < CUBLAS_FROM)


def product(backend: CudaBackend, a: Array, b: Array, bias: Array | None = None) -> Array:
    """Return a @ b (+ bias) of matrices that ``handles`` accepts."""
    c = backend.empty("matmul", (a.shape[0], b.shape[1]), a.dtype)
    _launch(backend, a, b, bias, c, None)
    return c


def product_and_sums(backend: CudaBackend, a: Array, b: Array) -> tuple[Array, Array]:
    """Return a @ b and the sums of the rows of a."""
    c = backend.empty("matmul", (a.shape[0], b.shape[1]), a.dtype)
    sums = backend.empty("matmul", (a.shape[0],), a.dtype)
    _launch(backend, a, b, None, c, sums)
    return c, sums


def _launch(backend: CudaBackend, a: Array, b: Array, bias: Array | None, c: Array, sums: Array | None) -> None:
    (M, K), N = a.shape, b.shape[1]
    large = -(-M // 64) * -(-N // 64) >= LARGE_TILES
    side, threads = LARGE if large else SMALL_TF32 if backend.in_tf32 else SMALL
    (way_a, a), (way_b, b) = in_order(backend, a), in_order(backend, b)
    if way_a + way_b == "tt":  # for which there is no kernel
        way_b, b = "n", backend.contiguous(b.T)[0]
    backend.kernels.launch(
        f"product_{way_a}{way_b}_{'large' if large else 'small'}", (-(-N // side), -(-M // side)), (threads,),
        a, b, a if bias is None else bias, c, c if sums is None else sums,
        *int32(M, N, K, bias is not None, sums is not None),
    )  # fmt: skip


def relu(backend: CudaBackend, x: Array) -> Array:
    """Return max(x, 0) of a C-ordered array."""
    y = backend.empty("relu", x.shape, x.dtype)
    backend.kernels.each("relu", x.size, x, y, np.int64(x.size))
    return y


def relu_gradient(backend: CudaBackend, dy: Array, y: Array) -> Array:
    """Return dy where y > 0, else 0."""
    dy, y = backend.contiguous(dy, y)
    dx = backend.empty("relu_gradient", y.shape, y.dtype)
    backend.kernels.each("relu_gradient", y.size, dy, y, dx, np.int64(y.size))
    return dx


def cross_entropy(
    backend: CudaBackend, logits: Array, target: Array, needs_gradient: bool
) -> tuple[Array, Array | None]:
    """Return the losses (N,) and, where needed, their gradient (N, C)."""
    (logits,) = backend.contiguous(logits)
    (target,) = backend.contiguous(target.astype(np.int64, copy=False))
    N, C = logits.shape
    losses = backend.empty("cross_entropy", (N,), logits.dtype)
    gradient = backend.empty("cross_entropy", (N, C), logits.dtype) if needs_gradient else None
    backend.kernels.launch(
        "cross_entropy", (-(-N // 4),), (128,),
        logits, target, losses, logits if gradient is None else gradient, *int32(N, C, needs_gradient),
    )  # fmt: skip
    return losses, gradient


def mean_loss(backend: CudaBackend, losses: Array, divisor: float) -> Array:
    """Return the sum of at most ``LOSSES`` losses over ``divisor``."""
    (losses,) = backend.contiguous(losses)
    total = backend.empty("mean_loss", (), losses.dtype)
    numbers = np.int64(losses.size), np.float32(divisor)
    backend.kernels.launch("mean_loss", (1,), (THREADS,), losses, total, *numbers)
    return total


def scale(backend: CudaBackend, x: Array, factor: Array, divisor: float) -> Array:
    """Return x times ``factor`` over ``divisor``."""
    y = backend.empty("scale", x.shape, x.dtype)
    backend.kernels.each("scale", x.size, x, factor, y, np.float32(divisor), np.int64(x.size))
    return y


def dropout_mask(backend: CudaBackend, shape: tuple[int, ...], p: float, generator: Generator) -> Array:
    """Return a float32 array that is 0 with probability ``p`` and 1 / (1 - p) otherwise."""
    mask = backend.empty("dropout", shape, np.float32)
    seed, draw = generator.next_key()
    recording = backend.recording
    state = backend.empty("dropout", (2,), np.uint64) if recording is None else recording.next_draw(generator)
    if recording is None or recording.mode == "watch":
        backend.kernels.launch("set_draw", (1,), (1,), state, np.uint64(seed), np.uint64(draw))
    numbers = np.float32(p), np.float32(1 / (1 - p)), np.int64(mask.size)
    backend.kernels.each("dropout_mask", -(-mask.size // 4), state, mask, *numbers)
    return mask
