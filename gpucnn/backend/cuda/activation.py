"""ReLU and dropout on CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.precision import HALF
from gpucnn.backend.random import Generator


def _relu_serves(device: CudaDevice, x: Array) -> bool:
    return bool(x.dtype == np.float32 and x.size and x.flags.c_contiguous)


@implements(ops.relu, on="cuda", when=_relu_serves)
def relu(device: CudaDevice, x: Array) -> Array:
    y = device.empty("relu", x.shape, x.dtype)
    device.kernels.each("relu", x.size, x, y, np.int64(x.size))
    return y


def _relu_gradient_serves(device: CudaDevice, dy: Array, y: Array) -> bool:
    return bool(dy.dtype == y.dtype == np.float32 and y.size and dy.shape == y.shape)


@implements(ops.relu_gradient, on="cuda", when=_relu_gradient_serves)
def relu_gradient(device: CudaDevice, dy: Array, y: Array) -> Array:
    dy, y = device.contiguous(dy, y)
    dx = device.empty("relu_gradient", y.shape, y.dtype)
    device.kernels.each("relu_gradient", y.size, dy, y, dx, np.int64(y.size))
    return dx


def _dropout_serves(device: CudaDevice, shape: tuple[int, ...], p: float, dtype: Any, generator: Generator) -> bool:
    return dtype in (np.float32, HALF) and p < 1 and 0 not in shape


@implements(ops.dropout_mask, on="cuda", when=_dropout_serves)
def dropout_mask(device: CudaDevice, shape: tuple[int, ...], p: float, dtype: Any, generator: Generator) -> Array:
    if dtype == HALF:
        return dropout_mask(device, shape, p, np.float32, generator).astype(HALF)
    mask = device.empty("dropout", shape, np.float32)
    seed, draw = generator.next_key()
    recording = device.recording
    state = device.empty("dropout", (2,), np.uint64) if recording is None else recording.next_draw(generator)
    if recording is None or recording.mode == "watch":
        device.kernels.launch("set_draw", (1,), (1,), state, np.uint64(seed), np.uint64(draw))
    numbers = np.float32(p), np.float32(1 / (1 - p)), np.int64(mask.size)
    device.kernels.each("dropout_mask", -(-mask.size // 4), state, mask, *numbers)
    return mask
