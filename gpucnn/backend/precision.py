"""In what a thread multiplies float32 arrays, as part of every backend: in float32, or in TF32 on tensor cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gpucnn.errors import DeviceError

_thread = threading.local()


class Precision:
    """The choice is the thread's own: it holds for what the thread runs, forward or backward, on devices that have TF32."""

    name: str
    has_tf32 = False
    """Whether this device can multiply in TF32."""

    @property
    def in_tf32(self) -> bool:
        """Whether this thread multiplies in TF32 on this device now."""
        return self.has_tf32 and getattr(_thread, "tf32", False)

    @contextmanager
    def tf32(self, enabled: bool = True) -> Iterator[None]:
        """Within, this thread's products and convolutions of float32 arrays multiply in TF32, on tensor cores.

        The factors are rounded to 10 bits of mantissa (float32 has 23); sums, and everything that is stored, stay float32.
        What is left to cuBLAS stays float32 altogether. ``enabled=False`` is float32, on every device. DeviceError where the
        device has no such tensor cores.

        >>> from gpucnn.backend import get_backend
        >>> backend = get_backend("cpu")
        >>> with backend.tf32(enabled=backend.has_tf32):
        ...     backend.in_tf32
        False
        """
        if enabled and not self.has_tf32:
            needed = "a CUDA device of compute capability 8.0 (Ampere) or newer"
            raise DeviceError.expected("tf32", "device", needed, self.name, "compute in float32 here")
        before, _thread.tf32 = getattr(_thread, "tf32", False), enabled
        try:
            yield
        finally:
            _thread.tf32 = before
