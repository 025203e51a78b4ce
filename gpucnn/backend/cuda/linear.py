"""Matrix products on CUDA."""

from __future__ import annotations

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import int32
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements

# Not measured on a device yet.
CUBLAS_FROM = 2**30
"""Multiplications from which cuBLAS (``blas``) is used."""
FULL = 128
"""Tiles that fill a GPU. With fewer, smaller tiles spread the work over more blocks."""
# As the kernels in linear.cu are instantiated.
TILES = {128: (256, 1), 64: (64, 1), 32: (32, 4)}
"""The side of a tile: the threads of a block, and how many of such rows of threads share the depth."""


def side_of(M: int, N: int) -> int:
    """Return the side of the tiles for a product (M, N): the largest of which there are enough to fill a GPU."""
    return next((side for side in TILES if -(-M // side) * -(-N // side) >= FULL), 32)


def in_order(device: CudaDevice, a: Array) -> tuple[str, Array]:
    """Return "n" and a C-ordered matrix, or "t" and the transpose of an F-ordered one.

    A matrix in any other order is copied.
    """
    if not a.flags.c_contiguous and a.flags.f_contiguous:
        return "t", a.T
    return "n", device.contiguous(a)[0]


def _product_serves(device: CudaDevice, a: Array, b: Array) -> bool:
    """Whether our kernels serve the product of two matrices."""
    if a.ndim != 2 or b.ndim != 2 or not device.takes(a, b) or a.shape[1] != b.shape[0]:
        return False
    return bool(0 < a.shape[0] * a.shape[1] * b.shape[1] < CUBLAS_FROM)


@implements(ops.matmul, on="cuda", when=_product_serves, first=True, half=True)
def matmul(device: CudaDevice, a: Array, b: Array) -> Array:
    c = device.empty("matmul", (a.shape[0], b.shape[1]), a.dtype)
    _launch(device, a, b, None, c, None)
    return c


def _linear_serves(device: CudaDevice, x: Array, w: Array, b: Array | None) -> bool:
    return _product_serves(device, x, w.T) and (b is None or device.takes(x, b))


@implements(ops.linear, on="cuda", when=_linear_serves, half=True)
def linear(device: CudaDevice, x: Array, w: Array, b: Array | None) -> Array:
    y = device.empty("matmul", (x.shape[0], w.shape[0]), x.dtype)
    _launch(device, x, w.T, None if b is None else device.contiguous(b)[0], y, None)
    return y


def _gradients_serve(device: CudaDevice, x: Array, dy: Array) -> bool:
    return _product_serves(device, dy.T, x)


@implements(ops.linear_parameter_gradients, on="cuda", when=_gradients_serve, half=True)
def linear_parameter_gradients(device: CudaDevice, x: Array, dy: Array) -> tuple[Array, Array]:
    dw = device.empty("matmul", (dy.shape[1], x.shape[1]), x.dtype)
    db = device.empty("matmul", (dy.shape[1],), x.dtype)
    _launch(device, dy.T, x, None, dw, db)
    return dw, db


def _launch(device: CudaDevice, a: Array, b: Array, bias: Array | None, c: Array, sums: Array | None) -> None:
    (M, K), N = a.shape, b.shape[1]
    side = side_of(M, N)
    (way_a, a), (way_b, b) = in_order(device, a), in_order(device, b)
    if way_a + way_b == "tt":  # there is no kernel for it
        way_b, b = "n", device.contiguous(b.T)[0]
    device.kernels("linear", a.dtype).launch(
        f"product_{way_a}{way_b}_{side}", (-(-N // side) * -(-M // side),), TILES[side],
        a, b, a if bias is None else bias, c, c if sums is None else sums,
        *int32(M, N, K, bias is not None, sums is not None),
    )  # fmt: skip
