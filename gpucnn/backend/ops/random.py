"""Random arrays. Initial values are drawn on the host, so that one seed gives the same numbers on every device."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.device import Array, Device
from gpucnn.backend.dispatch import operation
from gpucnn.backend.random import Generator

Shape = tuple[int, ...]


@operation()
def dropout_mask(device: Device, shape: Shape, p: float, dtype: Any, generator: Generator) -> Array:
    """Return an array that is 0 with probability ``p`` and 1/(1-p) otherwise (Srivastava et al. 2014, inverted)."""
    if p >= 1:
        return device.xp.zeros(shape, dtype)
    draw = device.xp.random.Generator(device.bit_generator(generator.next_key()))
    keep = draw.random(shape, dtype=device.xp.float32) >= p
    return keep.astype(dtype) * device.xp.asarray(1 / (1 - p), dtype)


@operation()
def draw_uniform(device: Device, shape: Shape, low: float, high: float, dtype: Any, generator: Generator) -> Array:
    """Return uniform random numbers in [low, high)."""
    draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
    return device.asarray(draw.uniform(low, high, shape).astype(dtype))


@operation()
def draw_normal(device: Device, shape: Shape, mean: float, std: float, dtype: Any, generator: Generator) -> Array:
    """Return normally distributed random numbers."""
    draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
    return device.asarray(draw.normal(mean, std, shape).astype(dtype))


@operation()
def draw_truncated(
    device: Device, shape: Shape, mean: float, std: float, low: float, high: float, dtype: Any, generator: Generator
) -> Array:
    """Return normally distributed numbers in [low, high]; numbers outside are redrawn."""
    draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
    values = draw.normal(mean, std, shape)
    while (outside := (values < low) | (values > high)).any():
        values[outside] = draw.normal(mean, std, int(outside.sum()))
    return device.asarray(values.astype(dtype))


@operation()
def draw_orthogonal(
    device: Device, rows: int, columns: int, dtype: Any, generator: Generator, gain: float = 1.0
) -> Array:
    """Return ``gain`` times a (rows, columns) matrix with orthonormal rows or columns, uniformly drawn."""
    draw = np.random.Generator(np.random.Philox(key=generator.next_key()))
    q, r = np.linalg.qr(draw.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return device.asarray((q if rows >= columns else q.T).astype(dtype) * gain)
