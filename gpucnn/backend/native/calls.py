"""The compiled kernels as functions on arrays, with the signatures of the operations that they serve.

Each takes float32 arrays, brings images into batch-last memory where they are not, and makes the result's memory. What a
kernel does not take (``serves``) is not for these functions. ``device`` gives memory and the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gpucnn.backend.native import library

if TYPE_CHECKING:
    from gpucnn.backend.geometry import Window

Array = Any
Shape = tuple[int, int, int, int]
Divisor = float | tuple[list[int], list[int]]

LARGEST_KERNEL = 64
"""Rows or columns of the largest window of a convolution."""
LARGEST_POOL = 256
"""Elements of the largest window of max-pooling: its indices are bytes."""
FLOAT = np.dtype(np.float32)


class Memory(Protocol):
    empty: Callable[[tuple[int, ...], Any], Array]


class Workers(Protocol):
    count: int


class Device(Protocol):
    """What the kernels need of the CPU's device."""

    workspace: Memory
    workers: Workers


def serves(*arrays: Array | None) -> bool:
    """Whether there are compiled kernels and all arrays are float32 (None counts) and hold something."""
    return library() is not None and all(a is None or (a.dtype == FLOAT and a.size) for a in arrays)


def serves_window(window: Window) -> bool:
    return max(window.kernel) <= LARGEST_KERNEL


# --- memory --------------------------------------------------------------------------------------------------------


def batch_last(device: Device, x: Array, dense: bool = False) -> Array:
    """Return (N, C, H, W) ``x`` in batch-last memory: itself where its rows lie so already.

    dense: whether rows and channels must follow each other, too.
    """
    N, C, H, W = x.shape
    sN, sC, sH, sW = x.strides
    size = x.itemsize
    if (N < 2 or sN == size) and (W < 2 or sW == N * size) and x.flags.aligned:
        row = W * N * size
        if not dense or ((H < 2 or sH == row) and (C < 2 or sC == H * row)):
            return x
    y = device.workspace.empty((C, H, W, N), x.dtype)
    if x.flags.c_contiguous and x.dtype == FLOAT:
        library().transpose(N, C * H * W, x.reshape(-1), y.reshape(-1), device.workers.count)
    else:
        np.copyto(y, x.transpose(1, 2, 3, 0))
    return y.transpose(3, 0, 1, 2)


def _empty(device: Device, shape: Shape, dtype: Any = FLOAT) -> Array:
    N, C, H, W = shape
    return device.workspace.empty((C, H, W, N), dtype).transpose(3, 0, 1, 2)


def _flat(x: Array) -> Array:
    """Return dense batch-last images as the vector that they are in memory."""
    return x.transpose(1, 2, 3, 0).reshape(-1)


def _numbers(window: Window) -> tuple[int, ...]:
    return (*window.kernel, *window.stride, *window.padding, *window.dilation)


def _c_order(w: Array) -> Array:
    return w if w.flags.c_contiguous and w.flags.aligned else np.array(w, order="C")


# --- convolution ---------------------------------------------------------------------------------------------------


def conv2d(
    device: Device, x: Array, w: Array, b: Array | None, window: Window, groups: int = 1, relu: bool = False
) -> Array:
    """Return the convolution, or with ``relu`` what ReLU makes of it."""
    F = w.shape[0]
    y = _empty(device, (x.shape[0], F, *window.output_size(*x.shape[2:])))
    x, b = batch_last(device, x), None if b is None else _c_order(b)
    library().conv2d(x, F, groups, *_numbers(window), _c_order(w), b, y, None, relu, 0, device.workers.count)
    return y


def conv2d_input_gradient(device: Device, dy: Array, w: Array, shape: Shape, window: Window, groups: int = 1) -> Array:
    return _gradients(device, None, w, dy, None, shape, window, groups, (True, False))[0]


def conv2d_weight_gradient(
    device: Device, x: Array, dy: Array, shape: Shape, window: Window, groups: int = 1
) -> tuple[Array, Array]:
    _, dw, db = _gradients(device, x, np.empty(shape, FLOAT), dy, None, x.shape, window, groups, (False, True))
    return dw, db


def conv2d_relu_max_pool2d(
    device: Device, x: Array, w: Array, b: Array | None, window: Window, groups: int, needs_indices: bool = True
) -> tuple[Array, Array | None]:
    F = w.shape[0]
    OH, OW = window.output_size(*x.shape[2:])
    y = _empty(device, (x.shape[0], F, OH // 2, OW // 2))
    indices = _empty(device, (x.shape[0], F, OH // 2, OW // 2), np.uint8) if needs_indices else None
    x, b = batch_last(device, x), None if b is None else _c_order(b)
    library().conv2d(x, F, groups, *_numbers(window), _c_order(w), b, y, indices, 1, 1, device.workers.count)
    return y, indices


def conv2d_relu_max_pool2d_gradients(
    device: Device, x: Array, w: Array, dy: Array, indices: Array, window: Window, groups: int,
    needs: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    if indices.dtype != np.uint8:
        indices = indices.astype(np.uint8)
    return _gradients(device, x, w, dy, batch_last(device, indices), x.shape, window, groups, needs)


def _gradients(
    device: Device, x: Array | None, w: Array, dy: Array, indices: Array | None, shape: Shape, window: Window, groups: int,
    needs: tuple[bool, bool],
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    """Return dL/dx, dL/dw and dL/db, as far as ``needs`` says so: for the images, for the parameters."""
    dx = _empty(device, shape) if needs[0] else None
    dw, db = (np.empty(w.shape, FLOAT), np.empty(w.shape[0], FLOAT)) if needs[1] else (None, None)
    seen = None if x is None or not needs[1] else batch_last(device, x)
    filters = _c_order(w) if needs[0] else None
    library().conv2d_gradients(
        seen, batch_last(device, dy), indices, *shape, w.shape[0], groups, *_numbers(window), filters, dx, dw, db,
        device.workers.count,
    )  # fmt: skip
    return dx, dw, db


# --- pooling -------------------------------------------------------------------------------------------------------


def max_pool2d(device: Device, x: Array, window: Window, needs_indices: bool = True) -> tuple[Array, Array | None]:
    shape = (*x.shape[:2], *window.output_size(*x.shape[2:]))
    y = _empty(device, shape)
    indices = _empty(device, shape, np.uint8) if needs_indices else None
    library().max_pool2d(batch_last(device, x, True), *_numbers(window), y, indices, device.workers.count)
    return y, indices


def max_pool2d_gradient(device: Device, dy: Array, indices: Array, shape: Shape, window: Window) -> Array:
    if indices.dtype != np.uint8:
        indices = indices.astype(np.uint8)
    dx, dy, indices = _empty(device, shape), batch_last(device, dy, True), batch_last(device, indices, True)
    library().pool2d_gradient(dy, indices, None, *_numbers(window), dx, device.workers.count)
    return dx


def avg_pool2d(device: Device, x: Array, window: Window, divisor: Divisor) -> Array:
    OH, OW = window.output_size(*x.shape[2:])
    y = _empty(device, (*x.shape[:2], OH, OW))
    share = _share(divisor, OH, OW)
    library().avg_pool2d(batch_last(device, x, True), *_numbers(window), y, share, device.workers.count)
    return y


def avg_pool2d_gradient(device: Device, dy: Array, shape: Shape, window: Window, divisor: Divisor) -> Array:
    dx, share = _empty(device, shape), _share(divisor, *dy.shape[2:])
    library().pool2d_gradient(batch_last(device, dy, True), None, share, *_numbers(window), dx, device.workers.count)
    return dx


def _share(divisor: Divisor, OH: int, OW: int) -> Array:
    """Return one over what each output pixel's sum is divided by."""
    if isinstance(divisor, tuple):
        rows, columns = (np.asarray(counts, FLOAT) for counts in divisor)
        return 1 / (rows[:, None] * columns)
    return np.full((OH, OW), 1 / divisor, FLOAT)


# --- batch normalisation -------------------------------------------------------------------------------------------


def batch_norm(
    device: Device, x: Array, weight: Array | None, bias: Array | None, eps: float, relu: bool = False,
    residual: Array | None = None, moments: tuple[Array, Array] | None = None,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Return y (N, C, H, W), the mean and the variance of each channel, and the factor 1 / sqrt(variance + eps).

    y is weight (x - mean) factor + bias, then plus ``residual``, then what ReLU makes of it, as far as asked for.
    moments: the mean and the variance to use instead of the batch's own, (C,) each.
    """
    N, C, H, W = x.shape
    y = _empty(device, x.shape)
    if moments is None:
        mean, var, factor = (np.empty(C, FLOAT) for _ in range(3))
    else:
        mean, var = (np.array(values, FLOAT) for values in moments)
        factor = (1 / np.sqrt(var.astype(np.float64) + eps)).astype(FLOAT)
    library().batch_norm(
        C, N * H * W, _flat(batch_last(device, x, True)),
        None if residual is None else _flat(batch_last(device, residual, True)), weight, bias, _flat(y), mean, var, factor,
        eps, moments is None, relu, device.workers.count,
    )  # fmt: skip
    return y, mean, var, factor


def batch_norm_gradients(
    device: Device, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    training: bool = True, needs_residual: bool = False,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    """Return dL/dx, dL/dweight, dL/dbias and, where wanted, dL/dresidual. y: the output, where ReLU made it, else None."""
    N, C, H, W = x.shape
    dx = _empty(device, x.shape)
    dresidual = _empty(device, x.shape) if needs_residual else None
    dweight, dbias = np.empty(C, FLOAT), np.empty(C, FLOAT)
    library().batch_norm_gradient(
        C, N * H * W, _flat(batch_last(device, dy, True)), _flat(batch_last(device, x, True)),
        None if y is None else _flat(batch_last(device, y, True)), weight, mean, factor, _flat(dx),
        None if dresidual is None else _flat(dresidual), dweight, dbias, training, device.workers.count,
    )  # fmt: skip
    return dx, dweight, dbias, dresidual


# --- number by number ----------------------------------------------------------------------------------------------


def same_memory(arrays: Sequence[Array]) -> list[Array] | None:
    """Return arrays of one shape as vectors, element by element alike; None where their memory is not dense or differs."""
    first = arrays[0]
    if all(a.flags.c_contiguous and a.flags.aligned for a in arrays):
        return [a.reshape(-1) for a in arrays]
    order = sorted(range(first.ndim), key=lambda axis: (-first.strides[axis], axis))
    ordered = [a.transpose(order) for a in arrays]
    if all(a.flags.c_contiguous and a.flags.aligned for a in ordered):
        return [a.reshape(-1) for a in ordered]
    return None


def relu(device: Device, x: Array, added: Array | None = None) -> Array:
    """Return max(x, 0), or max(x + added, 0); NaN stays. The arrays' memory must be alike (``same_memory``)."""
    y = empty_like(device, x)
    x, y_flat, *more = _alike([x, y] if added is None else [x, y, added])
    library().relu(x.size, x, more[0] if more else None, y_flat, device.workers.count)
    return y


def relu_gradient(device: Device, dy: Array, y: Array) -> Array:
    """Return dy where y > 0, else 0; the arrays' memory must be alike."""
    dx = empty_like(device, y)
    flat_dy, flat_y, flat_dx = _alike([dy, y, dx])
    library().relu_gradient(dy.size, flat_dy, flat_y, flat_dx, device.workers.count)
    return dx


def _alike(arrays: Sequence[Array]) -> list[Array]:
    vectors = same_memory(arrays)
    assert vectors is not None
    return vectors


def empty_like(device: Device, x: Array) -> Array:
    """Return uninitialised memory in the order of axes that dense ``x`` has."""
    order = sorted(range(x.ndim), key=lambda axis: (-x.strides[axis], axis))
    back = sorted(range(x.ndim), key=order.__getitem__)
    return device.workspace.empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(back)


def cross_entropy(device: Device, logits: Array, target: Array, needs_gradient: bool) -> tuple[Array, Array | None]:
    """Return -log softmax(logits)[target], (N,), and its gradient; IndexError for a label of no class."""
    N, C = logits.shape
    losses = np.empty(N, FLOAT)
    gradient = np.empty((C, N), FLOAT) if needs_gradient else None
    library().cross_entropy(
        N, C, np.ascontiguousarray(logits.T).reshape(-1), np.ascontiguousarray(target, np.int64), losses,
        None if gradient is None else gradient.reshape(-1), device.workers.count,
    )  # fmt: skip
    return losses, None if gradient is None else gradient.T


def sgd_update(
    device: Device, p: Array, g: Array, velocity: Array | None, *,
    lr: float, momentum: float, nesterov: bool, weight_decay: float,
) -> None:  # fmt: skip
    library().sgd_update(p.size, p, g, velocity, lr, momentum, weight_decay, nesterov, device.workers.count)


def adam_update(
    device: Device, p: Array, g: Array, m: Array, v: Array, *,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int, decoupled: bool = False,
) -> None:  # fmt: skip
    library().adam_update(
        p.size, p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, decoupled, device.workers.count
    )


def gather(device: Device, images: Array, indices: Array, scale: Array, shift: Array) -> Array:
    """Return float32 ``images[indices] * scale + shift`` of uint8 (M, C, H, W) images; IndexError for an index of none."""
    y = _empty(device, (len(indices), *images.shape[1:]))
    library().gather(
        images, len(indices), np.ascontiguousarray(indices, np.int64), scale.astype(FLOAT), shift.astype(FLOAT), y,
        device.workers.count,
    )  # fmt: skip
    return y
