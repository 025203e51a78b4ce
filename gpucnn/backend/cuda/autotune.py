"""Autotuning with ``GPUCNN_AUTOTUNE=1``: kernels are chosen by timing, once per process and case."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from types import ModuleType
from typing import Any

ROUNDS = 3
"""Timed runs of each candidate, of which the fastest counts. An untimed run first compiles and fills the memory pool."""


class Autotuner:
    """Chooses the fastest of several implementations for each case. Their results differ in the last bits only."""

    def __init__(self, xp: ModuleType) -> None:
        self._xp = xp
        self.chosen: dict[Hashable, str] = {}

    def run(self, case: Hashable, candidates: Mapping[str, Callable[[], Any]]) -> Any:
        """Run the fastest candidate and return its result. The first run of a case times all candidates."""
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
        """Return the chosen candidates, by the text of their case."""
        return {str(case): name for case, name in self.chosen.items()}
