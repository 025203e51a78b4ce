"""The stopwatch of loops written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from gpucnn.backend import Backend
from gpucnn.errors import GpucnnError
from gpucnn.training import Timer


def test_it_adds_up_what_it_measured(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    clock = iter([10.0, 10.5, 20.0, 21.5])
    waits: list[Any] = []
    monkeypatch.setattr("gpucnn.training.timer.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr(type(backend), "synchronize", lambda self: waits.append(self))
    timer = Timer(backend)
    assert (timer.seconds, timer.mean, timer.times) == (0, 0, [])
    with timer:
        pass
    timer.start()
    assert timer.stop() == 1.5
    assert (timer.times, timer.seconds, timer.mean, timer.rate(100)) == ([0.5, 1.5], 2.0, 1.0, 50.0)
    assert waits == [backend] * 4, "what a GPU has only begun counts"


def test_a_stop_needs_a_start() -> None:
    with pytest.raises(GpucnnError, match=r"Call start\(\) first"):
        Timer().stop()
