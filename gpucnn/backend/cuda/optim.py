"""The optimisers' updates on CUDA: one launch per flat buffer, and for Adam another that counts the update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gpucnn.backend import ops
from gpucnn.backend.cuda.device import CudaDevice
from gpucnn.backend.cuda.launch import MOST_BLOCKS, STORED, THREADS
from gpucnn.backend.device import Array
from gpucnn.backend.dispatch import implements
from gpucnn.backend.ops.optim import Number, Steps

PIECES = 12
"""The most arrays that one launch of ``copy_pieces`` copies."""


def takes(*arrays: Array | None) -> bool:
    """Whether the kernels serve these arrays: float32, contiguous and not empty."""
    return all(a is None or (a.dtype == np.float32 and a.flags.c_contiguous and a.size > 0) for a in arrays)


def _condition(where: Array | bool, unused: Array) -> tuple[Array, np.int32]:
    """Return the array from which a kernel reads its condition, and whether it does so."""
    return (unused.view(np.bool_), np.int32(0)) if isinstance(where, bool) else (where, np.int32(1))


def _number(device: CudaDevice, number: Number) -> tuple[Array, np.float64]:
    """Return the array from which a captured kernel reads a number, and the number that is passed otherwise."""
    if isinstance(number, (int, float)):
        return device.constant((0.0,), np.float64), np.float64(number)
    return number, np.float64(0)


@implements(ops.set_numbers, on="cuda")
def set_numbers(device: CudaDevice, target: Array, values: Sequence[float]) -> None:
    first, *rest = map(np.float64, values)
    device.kernels("optim").launch("set_numbers", (1,), (1,), target, first, *(rest or [first]), np.int32(len(values)))


def _sgd_serves(
    device: CudaDevice, p: Array, g: Array, velocity: Array | None, *,
    lr: Number, momentum: Number, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> bool:  # fmt: skip
    return takes(p, g, velocity)


@implements(ops.sgd_update, on="cuda", when=_sgd_serves)
def sgd_update(
    device: CudaDevice, p: Array, g: Array, velocity: Array | None, *,
    lr: Number, momentum: Number, nesterov: bool, weight_decay: float, where: Array | bool = True,
) -> None:  # fmt: skip
    if where is False:
        return
    (lr_at, rate), (momentum_at, kept) = _number(device, lr), _number(device, momentum)
    condition, conditional = _condition(where, p)
    captured = np.int32(not isinstance(lr, (int, float)))
    device.kernels("optim").each(
        "sgd", p.size, p, g, p if velocity is None else velocity, lr_at, momentum_at, condition, rate, kept, captured,
        np.int32(velocity is not None), conditional, np.int32(nesterov), np.float32(weight_decay), np.int64(p.size),
    )  # fmt: skip


def _adam_serves(
    device: CudaDevice, p: Array, g: Array, m: Array, v: Array, *,
    lr: Number, beta1: Number, beta2: float, eps: float, weight_decay: float, step: Steps,
    decoupled: bool = False, where: Array | bool = True,
) -> bool:  # fmt: skip
    return takes(p, g, m, v)


@implements(ops.adam_update, on="cuda", when=_adam_serves)
def adam_update(
    device: CudaDevice, p: Array, g: Array, m: Array, v: Array, *,
    lr: Number, beta1: Number, beta2: float, eps: float, weight_decay: float, step: Steps,
    decoupled: bool = False, where: Array | bool = True,
) -> None:  # fmt: skip
    if where is False:
        return
    counts = device.asarray([step - 1.0], np.float64) if isinstance(step, int) else step
    numbers = device.empty("optimizer", (5,), np.float32)
    (lr_at, rate), (beta1_at, first) = _number(device, lr), _number(device, beta1)
    condition, conditional = _condition(where, numbers)
    captured = np.int32(not isinstance(lr, (int, float)))
    device.kernels("optim").launch(
        "begin_adam", (1,), (1,), counts, lr_at, beta1_at, condition, numbers, rate, first, np.float64(beta2),
        captured, conditional, np.int32(counts.size),
    )  # fmt: skip
    rates = (np.float32(rate) for rate in (beta2, 1 - beta2, eps, weight_decay))
    device.kernels("optim").each(
        "adam", p.size, p, g, m, v, numbers, condition, conditional, *rates, np.int32(decoupled), np.int64(p.size)
    )


def _copy_serves(device: CudaDevice, pairs: Sequence[tuple[Array, Array]]) -> bool:
    return any(_copies(device, *pair) for pair in pairs)


def _copies(device: CudaDevice, target: Array, source: Array) -> bool:
    return device.takes(target, source) and bool(
        target.size and target.flags.c_contiguous and source.flags.c_contiguous
    )


@implements(ops.copy_all, on="cuda", when=_copy_serves)
def copy_all(device: CudaDevice, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Copy many arrays in one launch. Arrays that the kernel does not serve are copied one by one."""
    for target, source in pairs:
        if not _copies(device, target, source):
            target[...] = source
    for dtype in STORED:
        plain = [pair for pair in pairs if _copies(device, *pair) and pair[0].dtype == dtype]
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
    device.kernels("optim", pairs[0][0].dtype).launch("copy_pieces", grid, (THREADS,), *arguments)
