"""Gathering batches on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements


@implements(ops.gather, on="cpu")
def gather(device: CpuDevice, images: Array, indices: Array, scale: Array, shift: Array, dtype: Any) -> Array:
    """The result is batch-last in memory."""
    chosen = images[indices]
    N, C, H, W = chosen.shape
    y = device.workspace.empty((C, H, W, N), dtype)
    np.multiply(chosen.transpose(1, 2, 3, 0), scale[:, None, None, None], out=y, casting="unsafe")
    y += shift[:, None, None, None]
    return y.transpose(3, 0, 1, 2)
