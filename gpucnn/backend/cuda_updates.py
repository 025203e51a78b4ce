"""The optimisers' updates on CUDA: one launch over a flat buffer, and one that sets what changes from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucnn.backend.cuda_kernels import MOST_BLOCKS, THREADS, int32
from gpucnn.backend.recording import NUMBERS

if TYPE_CHECKING:
    from gpucnn.backend.cuda import CudaBackend

Array = Any

PIECES = 12
"""Arrays that one launch of ``copy_pieces`` copies."""


def handles(*arrays: Array | None) -> bool:
    """Whether the kernels take these arrays: float32 and in one piece."""
    return all(a is None or (a.dtype == np.float32 and a.flags.c_contiguous and a.size > 0) for a in arrays)


def _numbers(backend: CudaBackend, *values: float) -> Array | None:
    """Return where an update reads its numbers; None where filling them is all there is to do, before a replay."""
    recording = backend.recording
    recorded = recording is not None and recording.mode != "watch"
    numbers = recording.next_numbers() if recorded and recording else backend.empty("optimizer", (NUMBERS,), np.float32)
    if recording is None or recording.mode != "record":
        every = (*values, *[0.0] * (NUMBERS - len(values)))
        backend.kernels.launch("set_numbers", (1,), (1,), numbers, *(np.float32(value) for value in every))
    return None if recording is not None and recording.mode == "replay" else numbers


def _condition(where: Array | bool, unused: Array) -> tuple[Array, np.int32]:
    """Return the pointer that a kernel reads its condition from, and whether it does."""
    return (unused.view(np.bool_), np.int32(0)) if isinstance(where, bool) else (where, np.int32(1))


def sgd(
    backend: CudaBackend, p: Array, g: Array, velocity: Array | None, where: Array | bool, *,
    lr: float, momentum: float, nesterov: bool, weight_decay: float,
) -> None:  # fmt: skip
    """The update of ``Updates.sgd_update``."""
    numbers = _numbers(backend, lr, momentum)
    if numbers is None:
        return
    condition, conditional = _condition(where, numbers)
    backend.kernels.each(
        "sgd", p.size, p, g, p if velocity is None else velocity, numbers, condition,
        np.int32(velocity is not None), conditional, np.int32(nesterov),
        np.float32(weight_decay), np.int64(p.size),
    )  # fmt: skip


def adam(
    backend: CudaBackend, p: Array, g: Array, m: Array, v: Array, where: Array | bool, *,
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, step: int, decoupled: bool = False,
) -> None:  # fmt: skip
    """The update of ``Updates.adam_update``."""
    numbers = _numbers(backend, lr, lr / (1 - beta1**step), (1 - beta2**step) ** 0.5, beta1, 1 - beta1)
    if numbers is None:
        return
    condition, conditional = _condition(where, numbers)
    rates = (np.float32(rate) for rate in (beta2, 1 - beta2, eps, weight_decay))
    backend.kernels.each(
        "adam", p.size, p, g, m, v, numbers, condition, conditional, *rates, np.int32(decoupled), np.int64(p.size)
    )


def copy_pieces(backend: CudaBackend, pairs: Sequence[tuple[Array, Array]]) -> None:
    """Copy each pair's second array into its first, at most ``PIECES`` of them, in one launch."""
    arguments: list[Any] = []
    for to, source in pairs:
        arguments += [source, to, np.int64(to.size)]
    arguments += [*arguments[:2], np.int64(0)] * (PIECES - len(pairs))
    most = max(to.size for to, _ in pairs)
    grid = (min(-(-most // THREADS), MOST_BLOCKS), PIECES)
    backend.kernels.launch("copy_pieces", grid, (THREADS,), *arguments)


def gather(backend: CudaBackend, images: Array, indices: Array, scale: Array, shift: Array) -> Array:
    """Return ``images[indices] * scale + shift`` of uint8 images, float32."""
    images, indices = backend.contiguous(images, indices)
    M, C, H, W = images.shape
    y = backend.empty("gather", (indices.size, C, H, W), np.float32)
    backend.kernels.each(
        "gather_normalised", y.size, images, indices, scale, shift, y,
        np.int64(M), *int32(indices.size, C), np.int64(H * W),
    )  # fmt: skip
    return y
