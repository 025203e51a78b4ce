"""The gradient of an index on CUDA, without atomics: CuPy's ``add.at`` adds in whatever order threads arrive."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.precision import HALF

Shape = tuple[int, ...]


def _serves(device: CudaDevice, dy: Array, shape: Shape, key: Any, repeats: bool) -> bool:
    return repeats


@implements(ops.index_gradient, on="cuda", when=_serves)
def index_gradient(device: CudaDevice, dy: Array, shape: Shape, key: Any, repeats: bool) -> Array:
    """Sorted by element, each run of equal elements is summed pairwise in log2(n) passes: always in the same order."""
    xp = device.xp
    size = int(np.prod(shape, dtype=np.int64))
    elements = xp.arange(size).reshape(shape)[key].reshape(-1)
    order = xp.argsort(elements, kind="stable")
    elements = elements[order]
    sums = dy.reshape(-1)[order]
    if dy.dtype == HALF:
        sums = sums.astype(np.float32)
    step = 1
    while step < sums.size:  # sums[i] is that of the elements i to i + step - 1 of its run
        more = xp.where(elements[step:] == elements[:-step], sums[step:], sums.dtype.type(0))
        sums = xp.concatenate([sums[:-step] + more, sums[-step:]])
        step *= 2
    dx = xp.zeros(size + 1, dy.dtype)  # what is not the first of its run goes to the last element
    if sums.size:
        first = xp.concatenate([elements[:1] >= 0, elements[1:] != elements[:-1]])
        dx[xp.where(first, elements, size)] = sums.astype(dy.dtype)
    return dx[:size].reshape(shape)
