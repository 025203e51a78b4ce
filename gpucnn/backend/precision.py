"""Precision: TF32 is chosen per thread; float16 is a storage format, and its sums are computed in float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)

_thread = threading.local()


def tf32_chosen() -> bool:
    """Whether this thread multiplies in TF32, on devices that can."""
    return getattr(_thread, "tf32", False)


@contextmanager
def choose_tf32(enabled: bool) -> Iterator[None]:
    """Make this thread multiply in TF32, or in float32, within the block: in forward and in backward."""
    before, _thread.tf32 = getattr(_thread, "tf32", False), enabled
    try:
        yield
    finally:
        _thread.tf32 = before


def is_half(array: Any) -> bool:
    """Whether ``array`` is a float16 array."""
    return getattr(array, "dtype", None) == HALF


def narrowed(result: Any) -> Any:
    """Return a float32 array as float16, and anything else unchanged."""
    return result.astype(HALF) if getattr(result, "dtype", None) == np.float32 else result
