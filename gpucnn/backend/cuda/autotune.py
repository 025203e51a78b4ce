"""Choice of a kernel by timing, with ``GPUCNN_AUTOTUNE=1``: what won is kept for the process, and can be reported."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import ModuleType
from typing import Any

ROUNDS = 3
"""Timed runs of each candidate, after one that compiles and fills the memory pool; the fastest counts."""


class Autotuner:
    """For each case, which of several ways to one result is the fastest. The results differ in their last bits only."""

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self.chosen: dict[Hashable, str] = {}

    def run(self, case: Hashable, candidates: Mapping[str, Callable[[], Any]]) -> Any:
        """Return what the fastest candidate returns; the first time that a case is met, all are timed."""
        if case not in self.chosen:
            times = {name: self._milliseconds(candidate) for name, candidate in candidates.items()}
            self.chosen[case] = min(times, key=times.__getitem__)
        return candidates[self.chosen[case]]()

    def _milliseconds(self, candidate: Callable[[], Any]) -> float:
        cuda = self._xp.cuda
        try:
            candidate()
        except MemoryError:
            return float("inf")
        best = float("inf")
        for _ in range(ROUNDS):
            start, end = cuda.Event(), cuda.Event()
            start.record()
            candidate()
            end.record()
            end.synchronize()
            best = min(best, cuda.get_elapsed_time(start, end))
        return best

    def report(self) -> dict[str, str]:
        """Return what was chosen, by case in words."""
        return {str(case): name for case, name in self.chosen.items()}
