"""The optimisers' updates on CUDA: one launch over a flat buffer, and one that sets what changes from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import MOST_BLOCKS, THREADS
from gpucnn.backend.cuda.recording import NUMBERS
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements

PIECES = 12
"""Arrays that one launch of ``copy_pieces`` copies."""


def takes(*arrays: Array | None) -> bool:
    """Whether the kernels take these arrays: float32 and in one piece."""
    return all(a is None or (a.dtype == np.float32 and a.flags.c_contiguous and a.size > 0) for a in arrays)


def _numbers(device: CudaDevice, *values: float) -> Array | None:
    """Return where an update reads its numbers; None where filling them is all there is to do, before a replay."""
    recording = device.recording
    recorded = recording is not None and recording.mode != "watch"
    numbers = recording.next_numbers() if recorded and recording else device.empty("optimizer", (NUMBERS,), np.float32)
    if recording is None or recording.mode != "record":
        every = (*values, *[0.0] * (NUMBERS - len(values)))
        device.kernels.launch("set_numbers", (1,), (1,), numbers, *(np.float32(value) for value in every))
    return None if recording is not None and recording.mode == "replay" else numbers


def _condition(where: Array | bool, unused: Array) -> tuple[Array, np.int32]:
    """Return the pointer that a kernel reads its condition from, and whether it does."""
    return (unused.view(np.bool_), np.int32(0)) if isinstance(where, bool) else (where, np.int32(1))


def _sgd_serves(
    device: CudaDevice, p: Array, g: Array, velocity: Array | None, *,
    lr: float, momentum: float, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> bool:  # fmt: skip
    return takes(p, g, velocity)


@implements(ops.sgd_update, on="cuda", when=_sgd_serves)
def sgd_update(
    device: CudaDevice, p: Array, g: Array, velocity: Array | None, *,
    lr: float, momentum: float, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    if where is False:
        return
    numbers = _numbers(device, lr, momentum)
    if numbers is None:
        return
    condition, conditional = _condition(where, numbers)
    device.kernels.each(
        "sgd", p.size, p, g, p if velocity is None else velocity, numbers, condition,
        np.int32(velocity is not None), conditional, np.int32(nesterov),
        np.float32(weight_decay), np.int64(p.size),
    )  # fmt: skip


def _adam_serves(
    device: CudaDevice, p: Array, g: Array, m: Array, v: Array, *,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int,
    decoupled: bool = False, where: Array | bool = True,
) -> bool:  # fmt: skip
    return takes(p, g, m, v)


@implements(ops.adam_update, on="cuda", when=_adam_serves)
def adam_update(
    device: CudaDevice, p: Array, g: Array, m: Array, v: Array, *,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int,
    decoupled: bool = False, where: Array | bool = True,
) -> None:  # fmt: skip
    if where is False:
        return
    numbers = _numbers(device, lr, lr / (1 - beta1**step), (1 - beta2**step) ** 0.5, beta1, 1 - beta1)
    if numbers is None:
        return
    condition, conditional = _condition(where, numbers)
    rates = (np.float32(rate) for rate in (beta2, 1 - beta2, eps, weight_decay))
    device.kernels.each(
        "adam", p.size, p, g, m, v, numbers, condition, conditional, *rates, np.int32(decoupled), np.int64(p.size)
    )


def _copy_serves(device: CudaDevice, pairs: Sequence[tuple[Array, Array]]) -> bool:
    return any(takes(*pair) for pair in pairs)


@implements(ops.copy_all, on="cuda", when=_copy_serves)
def copy_all(device: CudaDevice, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Many arrays in one launch; what the kernel does not take is copied one by one."""
    plain = [pair for pair in pairs if takes(*pair)]
    for target, source in pairs:
        if not takes(target, source):
            target[...] = source
    for first in range(0, len(plain), PIECES):
        _copy_pieces(device, plain[first : first + PIECES])


def _copy_pieces(device: CudaDevice, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Copy each pair's second array into its first, at most ``PIECES`` of them, in one launch."""
    arguments: list[Any] = []
    for to, source in pairs:
        arguments += [source, to, np.int64(to.size)]
    arguments += [*arguments[:2], np.int64(0)] * (PIECES - len(pairs))
    most = max(to.size for to, _ in pairs)
    grid = (min(-(-most // THREADS), MOST_BLOCKS), PIECES)
    device.kernels.launch("copy_pieces", grid, (THREADS,), *arguments)
