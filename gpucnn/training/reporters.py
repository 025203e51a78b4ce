"""Reporters made of others: several at once, and a function that sees each epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpucnn.training.trainer import Reporter, Trainer


class Reporters(Reporter):
    """Tells several reporters, in their order; each is told of the finish, whatever the others do.

    >>> Reporters(Reporter(), EachEpoch(print)).epoch(None, {"epoch": 1})
    {'epoch': 1}
    """

    def __init__(self, *reporters: Reporter) -> None:
        self.reporters = reporters

    def start(self, trainer: Trainer) -> None:
        for reporter in self.reporters:
            reporter.start(trainer)

    def step(self, trainer: Trainer, images: int) -> None:
        for reporter in self.reporters:
            reporter.step(trainer, images)

    def log(self, trainer: Trainer, values: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.log(trainer, values)

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.epoch(trainer, values)

    def finish(self, trainer: Trainer) -> None:
        self._finish(trainer, self.reporters)

    def _finish(self, trainer: Trainer, reporters: tuple[Reporter, ...]) -> None:
        if reporters:
            try:
                reporters[0].finish(trainer)
            finally:
                self._finish(trainer, reporters[1:])


class EachEpoch(Reporter):
    """Calls a function with the metrics of each epoch: ``Trainer(..., reporter=EachEpoch(inspect.LiveCurves()))``.

    >>> EachEpoch(print).epoch(None, {"epoch": 1})
    {'epoch': 1}
    """

    def __init__(self, function: Callable[[dict[str, Any]], object]) -> None:
        self._function = function

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        self._function(values)
