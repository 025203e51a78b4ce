"""ReLU and dropout on CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.capture_state import Draws
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.random import Generator
from gpucnn.errors import CaptureError


def _relu_serves(device: CudaDevice, x: Array) -> bool:
    return bool(device.takes(x) and x.size and x.flags.c_contiguous)


@implements(ops.relu, on="cuda", when=_relu_serves)
def relu(device: CudaDevice, x: Array) -> Array:
    y = device.empty("relu", x.shape, x.dtype)
    device.kernels("activation", x.dtype).each("relu", x.size, x, y, np.int64(x.size))
    return y


def _relu_gradient_serves(device: CudaDevice, dy: Array, y: Array) -> bool:
    return bool(device.takes(dy, y) and y.size and dy.shape == y.shape)


@implements(ops.relu_gradient, on="cuda", when=_relu_gradient_serves)
def relu_gradient(device: CudaDevice, dy: Array, y: Array) -> Array:
    dy, y = device.contiguous(dy, y)
    dx = device.empty("relu_gradient", y.shape, y.dtype)
    device.kernels("activation", y.dtype).each("relu_gradient", y.size, dy, y, dx, np.int64(y.size))
    return dx


def _dropout_serves(device: CudaDevice, shape: tuple[int, ...], p: float, dtype: Any, generator: Generator) -> bool:
    return device.takes_dtype(dtype) and p < 1 and 0 not in shape


@implements(ops.dropout_mask, on="cuda", when=_dropout_serves)
def dropout_mask(device: CudaDevice, shape: tuple[int, ...], p: float, dtype: Any, generator: Generator) -> Array:
    mask = device.empty("dropout", shape, dtype)
    draws = draws_on(device, generator)
    numbers = np.float32(p), np.float32(1 / (1 - p)), np.int64(mask.size)
    device.kernels("activation", mask.dtype).each("dropout_mask", -(-mask.size // 4), draws.state, mask, *numbers)
    device.kernels("activation").launch("next_draw", (1,), (1,), draws.state)
    generator.next_key()
    draws.known = (generator.seed, generator.counter)
    if device.capture_state is not None:
        device.capture_state.note_draw(generator)
    return mask


def draws_on(device: CudaDevice, generator: Generator) -> Draws:
    """Return the device's copy of a generator's seed and draw counter, updated if it is stale."""
    draws = generator.mirrors.get(device)
    if draws is None:
        draws = generator.mirrors[device] = Draws(device.xp.empty((2,), np.uint64))
    if draws.known != (generator.seed, generator.counter):
        if device.capture_state is not None and device.capture_state.mode == "capture":
            raise CaptureError("capture: a generator is seeded, or drawn from on the host, within the step.")
        device.kernels("activation").launch(
            "set_draw", (1,), (1,), draws.state, np.uint64(generator.seed), np.uint64(generator.counter)
        )
        draws.known = (generator.seed, generator.counter)
    return draws
