"""The compiled element-wise kernels: normalisation, activation, loss, updates, batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.cpu.native import FLOAT, batch_last, empty, flat, serves
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.ops.optim import Number, Steps

LEAST_NUMBERS = 1 << 13
"""Array size from which a kernel is faster than an operation that NumPy does in one pass."""


# --- batch normalisation ---------------------------------------------------------------------------------------------


def _batch_norm_serves(
    device: CpuDevice,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> bool:
    return x.ndim == 4 and serves(device, x, weight, bias, residual)


@implements(ops.batch_norm, on="cpu", when=_batch_norm_serves)
def batch_norm(
    device: CpuDevice,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    residual: Array | None,
    eps: float,
    relu: bool,
) -> tuple[Array, Array, Array, Array]:
    mean, var, factor = (np.empty(x.shape[1], FLOAT) for _ in range(3))
    y = _normalised(device, x, mean, var, factor, weight, bias, residual, eps, relu, training=True)
    if not np.isfinite(var).all():
        return ops.batch_norm.reference(device, x, weight, bias, residual, eps, relu)  # it scales values that overflow
    return y, mean, var, factor


def _batch_norm_inference_serves(
    device: CpuDevice, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, eps: float, relu: bool,
) -> bool:  # fmt: skip
    return x.ndim == 4 and serves(device, x, mean, var, weight, bias, residual)


@implements(ops.batch_norm_inference, on="cpu", when=_batch_norm_inference_serves)
def batch_norm_inference(
    device: CpuDevice, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, eps: float, relu: bool,
) -> tuple[Array, Array]:  # fmt: skip
    factor = 1 / np.sqrt(var + FLOAT.type(eps))
    y = _normalised(device, x, np.array(mean), np.array(var), factor, weight, bias, residual, eps, relu)
    return y, factor


def _normalised(
    device: CpuDevice, x: Array, mean: Array, var: Array, factor: Array, weight: Array | None, bias: Array | None,
    residual: Array | None, eps: float, relu: bool, training: bool = False,
) -> Array:  # fmt: skip
    """Return weight (x - mean) factor + bias, plus ``residual``, or its ReLU. In training the moments are written first."""
    N, C, H, W = x.shape
    y = empty(device, x.shape)
    device.kernels.batch_norm(
        C, N * H * W, flat(batch_last(device, x, True)),
        None if residual is None else flat(batch_last(device, residual, True)), _dense(weight), _dense(bias), flat(y),
        mean, var, factor, eps, training, relu, device.threads,
    )  # fmt: skip
    return y


def _dense(values: Array | None) -> Array | None:
    return None if values is None else np.require(values, requirements=["C", "A"])


def _batch_norm_gradients_serve(
    device: CpuDevice, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    needs_residual: bool, training: bool = True,
) -> bool:  # fmt: skip
    return x.ndim == 4 and serves(device, dy, x, y, weight, mean, factor)


@implements(ops.batch_norm_gradients, on="cpu", when=_batch_norm_gradients_serve)
def batch_norm_gradients(
    device: CpuDevice, dy: Array, x: Array, y: Array | None, weight: Array | None, mean: Array, factor: Array,
    needs_residual: bool, training: bool = True,
) -> tuple[Array, Array, Array, Array | None]:  # fmt: skip
    N, C, H, W = x.shape
    dx = empty(device, x.shape)
    dweight, dbias = np.empty(C, FLOAT), np.empty(C, FLOAT)
    masked = empty(device, x.shape) if needs_residual and y is not None else None
    device.kernels.batch_norm_gradient(
        C, N * H * W, flat(batch_last(device, dy, True)), flat(batch_last(device, x, True)),
        None if y is None else flat(batch_last(device, y, True)), _dense(weight), _dense(mean), _dense(factor),
        flat(dx),
        None if masked is None else flat(masked), dweight, dbias, training, device.threads,
    )  # fmt: skip
    return dx, dweight, dbias, dy if masked is None else masked


# --- activation and loss ---------------------------------------------------------------------------------------------


def same_memory(arrays: Sequence[Array]) -> list[Array] | None:
    """Return arrays of one shape as vectors with matching elements; None if their memory is not dense or differs."""
    first = arrays[0]
    if all(a.flags.c_contiguous and a.flags.aligned for a in arrays):
        return [a.reshape(-1) for a in arrays]
    order = sorted(range(first.ndim), key=lambda axis: (-first.strides[axis], axis))
    ordered = [a.transpose(order) for a in arrays]
    if all(a.flags.c_contiguous and a.flags.aligned for a in ordered):
        return [a.reshape(-1) for a in ordered]
    return None


def _relu_serves(device: CpuDevice, x: Array) -> bool:
    return x.size >= LEAST_NUMBERS and serves(device, x) and same_memory([x]) is not None


@implements(ops.relu, on="cpu", when=_relu_serves)
def relu(device: CpuDevice, x: Array) -> Array:
    y = empty_like(device, x)
    flat_x, flat_y = _alike([x, y])
    device.kernels.relu(x.size, flat_x, None, flat_y, device.threads)
    return y


def _hardswish_serves(device: CpuDevice, x: Array, factor: float, shift: float) -> bool:
    return _relu_serves(device, x)


@implements(ops.hardswish, on="cpu", when=_hardswish_serves)
def hardswish(device: CpuDevice, x: Array, factor: float, shift: float) -> Array:
    y = empty_like(device, x)
    flat_x, flat_y = _alike([x, y])
    device.kernels.hardswish(x.size, flat_x, flat_y, factor / 6, shift, device.threads)
    return y


def _relu_gradient_serves(device: CpuDevice, dy: Array, y: Array) -> bool:
    return y.size >= LEAST_NUMBERS and serves(device, dy, y) and same_memory([y, dy]) is not None


@implements(ops.relu_gradient, on="cpu", when=_relu_gradient_serves)
def relu_gradient(device: CpuDevice, dy: Array, y: Array) -> Array:
    dx = empty_like(device, y)
    flat_dy, flat_y, flat_dx = _alike([dy, y, dx])
    device.kernels.relu_gradient(dy.size, flat_dy, flat_y, flat_dx, device.threads)
    return dx


def _alike(arrays: Sequence[Array]) -> list[Array]:
    vectors = same_memory(arrays)
    assert vectors is not None
    return vectors


def empty_like(device: CpuDevice, x: Array) -> Array:
    """Return uninitialised memory with the axis order of dense ``x``."""
    order = sorted(range(x.ndim), key=lambda axis: (-x.strides[axis], axis))
    back = sorted(range(x.ndim), key=order.__getitem__)
    return device.workspace.empty(tuple(x.shape[axis] for axis in order), x.dtype).transpose(back)


def _cross_entropy_serves(device: CpuDevice, logits: Array, target: Array, needs_gradient: bool) -> bool:
    return serves(device, logits) and target.dtype.kind in "iu"


@implements(ops.cross_entropy, on="cpu", when=_cross_entropy_serves)
def cross_entropy(device: CpuDevice, logits: Array, target: Array, needs_gradient: bool) -> tuple[Array, Array | None]:
    N, C = logits.shape
    losses = np.empty(N, FLOAT)
    gradient = np.empty((C, N), FLOAT) if needs_gradient else None
    device.kernels.cross_entropy(
        N, C, np.ascontiguousarray(logits.T).reshape(-1), np.ascontiguousarray(target, np.int64), losses,
        None if gradient is None else gradient.reshape(-1), device.threads,
    )  # fmt: skip
    return losses, None if gradient is None else gradient.T


# --- updates and batches ---------------------------------------------------------------------------------------------


def _vectors(device: CpuDevice, *arrays: Array | None) -> bool:
    """Whether all arrays are contiguous float32 vectors."""
    return serves(device, *arrays) and all(a is None or (a.ndim == 1 and a.flags.carray) for a in arrays)


def _sgd_serves(
    device: CpuDevice, p: Array, g: Array, velocity: Array | None, *,
    lr: Number, momentum: Number, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> bool:  # fmt: skip
    return isinstance(lr, float | int) and isinstance(momentum, float | int) and _vectors(device, p, g, velocity)


@implements(ops.sgd_update, on="cpu", when=_sgd_serves)
def sgd_update(
    device: CpuDevice, p: Array, g: Array, velocity: Array | None, *,
    lr: Number, momentum: Number, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    if where:
        device.kernels.sgd_update(p.size, p, g, velocity, lr, momentum, weight_decay, nesterov, device.threads)


def _adam_serves(
    device: CpuDevice, p: Array, g: Array, m: Array, v: Array, *,
    lr: Number, beta1: Number, beta2: float, eps: float, weight_decay: float, step: Steps,
    decoupled: bool = False, where: Array | bool = True,
) -> bool:  # fmt: skip
    numbers = all(isinstance(number, float | int) for number in (lr, beta1, step))
    return numbers and _vectors(device, p, g, m, v)


@implements(ops.adam_update, on="cpu", when=_adam_serves)
def adam_update(
    device: CpuDevice, p: Array, g: Array, m: Array, v: Array, *,
    lr: Number, beta1: Number, beta2: float, eps: float, weight_decay: float, step: Steps,
    decoupled: bool = False, where: Array | bool = True,
) -> None:  # fmt: skip
    if where:
        device.kernels.adam_update(
            p.size, p, g, m, v, lr, beta1, beta2, eps, weight_decay, step, decoupled, device.threads
        )


def _gather_serves(device: CpuDevice, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> bool:
    known = images.dtype == np.uint8 and images.ndim == 4 and images.flags.c_contiguous and images.size
    return bool(device.kernels is not None and known and dtype == FLOAT and indices.dtype.kind == "i")


@implements(ops.gather, on="cpu", when=_gather_serves)
def gather(device: CpuDevice, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> Array:
    y = empty(device, (len(indices), *images.shape[1:]))
    device.kernels.gather(
        images, len(indices), np.ascontiguousarray(indices, np.int64), scale.astype(FLOAT), shift.astype(FLOAT), y,
        device.threads,
    )  # fmt: skip
    return y
