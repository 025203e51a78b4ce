"""What the tests of the compiled kernels share: vector widths, a device whose memory is guarded, layouts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from oracles import Sliding

from gpucnn.backend import Window
from gpucnn.backend.native import library

Host = np.ndarray[Any, Any]
LAYOUTS = ("C-ordered", "batch last", "channels last")
WIDTHS = ("sse2", "avx2", "avx512", "neon", "generic")


def available_widths() -> Iterator[str]:
    """Yield the vector widths that this processor has, in use while the caller looks at them."""
    if library() is None:
        return
    for name in WIDTHS:
        try:
            library().use(name)
        except ValueError:
            continue
        yield name
    library().use("")


class Device:
    """Memory between guards, of NaN until it is written, and a number of threads."""

    GUARD = int(os.environ.get("GPUCNN_TEST_GUARD", "64"))

    def __init__(self, threads: int = 1) -> None:
        self.kernels, self.workspace, self.threads = library(), self, threads
        self.sgemm: tuple[int, bool] | None = None
        self.given: list[Host] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Host:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = np.full(size + 2 * self.GUARD, 0xFF, np.uint8)
        self.given.append(memory)
        return memory[self.GUARD : self.GUARD + size].view(dtype).reshape(shape)

    def check(self) -> None:
        for memory in self.given:
            assert (memory[: self.GUARD] == 0xFF).all()
            assert (memory[len(memory) - self.GUARD :] == 0xFF).all()
        assert self.given


@pytest.fixture(
    params=list(available_widths()) or [pytest.param("", marks=pytest.mark.skip(reason="no compiled kernels"))]
)
def width(request: pytest.FixtureRequest) -> Iterator[str]:
    library().use(request.param)
    yield request.param
    library().use("")


def sliding(window: Window) -> Sliding:
    return Sliding(window.kernel, window.stride, window.padding, window.dilation)


def guarded(device: Device, a: Host, layout: str) -> Host:
    """Return ``a`` between guards, in this memory layout."""
    order = {"C-ordered": (0, 1, 2, 3), "batch last": (1, 2, 3, 0), "channels last": (0, 2, 3, 1)}[layout]
    copy = device.empty(tuple(a.shape[i] for i in order), a.dtype)
    copy[...] = a.transpose(order)
    return copy.transpose(np.argsort(order))


def close(ours: Host, expected: Host, what: str) -> None:
    assert ours.shape == expected.shape, what
    scale = max(float(np.abs(expected).max(initial=0)), 1e-30)
    assert np.abs(ours - expected).max(initial=0) <= 1e-5 * scale, what
