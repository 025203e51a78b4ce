"""Several callbacks as one."""

from __future__ import annotations

from typing import Any

from gpucnn.training.loop import Callback
from gpucnn.training.trainer import Reporter, Trainer


class Reporters(Reporter):
    """Tells several reporters, in their order; each is told of the finish, whatever the others do.

    >>> from gpucnn.training import EachEpoch
    >>> Reporters(Reporter(), EachEpoch(print)).epoch(None, {"epoch": 1})
    {'epoch': 1}
    False
    """

    def __init__(self, *reporters: Callback) -> None:
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

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> object:
        answers = [reporter.epoch(trainer, values) for reporter in self.reporters]
        return any(answer is True for answer in answers)

    def finish(self, trainer: Trainer) -> None:
        self._finish(trainer, self.reporters)

    def _finish(self, trainer: Trainer, reporters: tuple[Callback, ...]) -> None:
        if reporters:
            try:
                reporters[0].finish(trainer)
            finally:
                self._finish(trainer, reporters[1:])
