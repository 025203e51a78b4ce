"""A stopwatch for loops written by hand: seconds, and examples per second."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from gpucnn.backend import Backend, default_backend
from gpucnn.errors import GpucnnError


class Timer:
    """Measures spans of time: ``with timer: ...``, or ``start`` and ``stop``. ``times`` are their seconds.

    It waits for the device at both ends, so that all work of a GPU counts. backend: the device; by default that of new
    tensors. Source: the Timer of Zhang et al., "Dive into Deep Learning".

    >>> timer = Timer()
    >>> with timer:
    ...     total = sum(range(1000))
    >>> len(timer.times), timer.seconds > 0, timer.rate(1000) > 0
    (1, True, True)
    """

    def __init__(self, backend: Backend | None = None) -> None:
        self.backend = backend or default_backend()
        self.times: list[float] = []
        self._since: float | None = None

    def start(self) -> None:
        """Start a measurement, or restart the current one."""
        self.backend.synchronize()
        self._since = time.perf_counter()

    def stop(self) -> float:
        """End the measurement and return its seconds; GpucnnError if none was started."""
        if self._since is None:
            raise GpucnnError("Timer.stop: nothing is measured. Call start() first.")
        self.backend.synchronize()
        self.times.append(time.perf_counter() - self._since)
        self._since = None
        return self.times[-1]

    @property
    def seconds(self) -> float:
        """The sum of all measurements."""
        return sum(self.times)

    @property
    def mean(self) -> float:
        """The mean of the measurements in seconds; 0 if there is none."""
        return self.seconds / len(self.times) if self.times else 0.0

    def rate(self, examples: int) -> float:
        """Return the examples per second, for the number of examples in all measurements together."""
        return examples / max(self.seconds, 1e-9)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
