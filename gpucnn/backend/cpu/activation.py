"""Activations of several passes, block by block, so that all passes but the first read the processor's cache."""

from __future__ import annotations

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.cpu.native import empty
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements

BLOCK = 1 << 14
"""Numbers that pass through at a time: 64 KiB of float32, a share of the second-level cache."""


def _hardswish_serves(device: CpuDevice, x: Array, factor: float, shift: float) -> bool:
    return x.size > BLOCK and (x.flags.c_contiguous or _is_batch_last(x))


def _is_batch_last(x: Array) -> bool:
    return x.ndim == 4 and bool(x.transpose(1, 2, 3, 0).flags.c_contiguous)


@implements(ops.hardswish, on="cpu", when=_hardswish_serves)
def hardswish(device: CpuDevice, x: Array, factor: float, shift: float) -> Array:
    pooled = _is_batch_last(x) and x.dtype == np.float32
    y = empty(device, x.shape) if pooled else np.empty_like(x)
    source, target = (x.transpose(1, 2, 3, 0), y.transpose(1, 2, 3, 0)) if _is_batch_last(x) else (x, y)
    source, target = source.reshape(-1), target.reshape(-1)
    low, high = x.dtype.type(0), x.dtype.type(6)
    for start in range(0, x.size, BLOCK):
        part, result = source[start : start + BLOCK], target[start : start + BLOCK]
        np.add(part, 3, out=result)
        np.clip(result, low, high, out=result)
        np.multiply(result, part, out=result)
        np.multiply(result, factor / 6, out=result)
        if shift:
            np.add(result, shift, out=result)
    return y
