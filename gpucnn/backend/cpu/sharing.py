"""Sharing a convolution: among processes if its arrays are fast to copy, among threads if it is large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from gpucnn.backend.cpu import processes, workers
from gpucnn.backend.cpu.device import CpuDevice
from gpucnn.backend.cpu.processes import Call
from gpucnn.backend.device import Array
from gpucnn.backend.geometry import Band, Shape, Window, bands, overlap


def parts_worth(device: CpuDevice, shape: Shape, w_shape: Shape, window: Window, pool: int = 1) -> int:
    """Return the number of parts of a convolution that pays, for processes or threads. ``pool``: pixels pooled into one."""
    if device.workers.count == 1:
        return 1
    N, C, H, W = shape
    OH, OW = window.output_size(H, W)
    pixels = N * OH * OW
    work = 2 * pixels * math.prod(w_shape)
    if work < processes.HANDING_OVER:
        return 1
    if device.processes.takes(4 * (N * C * H * W + pixels // pool * w_shape[0])):  # bytes of float32
        return device.processes.parts(work)
    return max(min(device.workers.count, int(work // workers.LEAST_PART)), 1)


def row_bands(device: CpuDevice, shape: Shape, w_shape: Shape, window: Window) -> list[Band]:
    """Return the bands of output rows that are computed in parallel; one band for little work."""
    OH, _ = window.output_size(*shape[2:])
    return bands(window, shape[2], OH, 1, parts_worth(device, shape, w_shape, window))


def share(device: CpuDevice, calls: Sequence[Call]) -> None:
    """Run the calls in parallel."""
    if len(calls) == 1:
        calls[0].run(device)
    elif len(calls) <= device.processes.count and device.processes.takes(sum(call.nbytes for call in calls)):
        device.processes.run(device, calls, device.workspace.limit_of_each)
    else:
        device.workers.run(lambda call: call.run(device), calls)


def image_parts(device: CpuDevice, shape: Shape, dtype: Any, plan: Sequence[Band]) -> tuple[Array, list[Array]]:
    """Return memory for the gradient of images, and each part's output: a view of it, or an array for ``join``."""
    N, C, _, W = shape
    dx = device.workspace.empty_batch_last(shape, dtype)
    if not overlap(plan):
        return dx, [dx[part.images] for part in plan]
    return dx, [device.workspace.empty_batch_last((N, C, part.seen.stop - part.seen.start, W), dtype) for part in plan]


def summed(parts: Sequence[Any]) -> tuple[Array, Array]:
    """Return the sums of dL/dw and of dL/db over the parts of a kernel, in the first one's memory."""
    dw, db = parts[0]
    for more_dw, more_db in parts[1:]:
        dw += more_dw
        db += more_db
    return dw, db
