"""Reporters, the callbacks of a ``Trainer``, and the one that keeps its records."""

from __future__ import annotations

from typing import Any

from gpucnn.training.callback import Callback


class Reporter(Callback):
    """A callback of a ``Trainer``; the methods of this base class do nothing."""

    def start(self, trainer: Any) -> None:
        """Training starts or resumes."""

    def step(self, trainer: Any, images: int) -> None:
        """A step on this many images has finished."""

    def log(self, trainer: Any, values: dict[str, Any]) -> None:
        """The loss was read: step, epoch, progress, loss, lr, running_loss, running_accuracy."""

    def epoch(self, trainer: Any, values: dict[str, Any]) -> object:
        """An epoch has finished; ``values`` is the object that went to ``metrics.jsonl``."""

    def test(self, trainer: Any, values: dict[str, Any]) -> None:
        """The test set was measured, at the end: epoch, step, checkpoint, test_loss, test_accuracy."""

    def finish(self, trainer: Any) -> None:
        """Training stopped, for whatever reason."""


class Reporters(Reporter):
    """Calls several reporters in order; ``finish`` of each is called, even if another raises.

    >>> from gpucnn.training import EachEpoch
    >>> Reporters(Reporter(), EachEpoch(print)).epoch(None, {"epoch": 1})
    {'epoch': 1}
    False
    """

    def __init__(self, *reporters: Callback) -> None:
        self.reporters = reporters

    def start(self, trainer: Any) -> None:
        for reporter in self.reporters:
            reporter.start(trainer)

    def step(self, trainer: Any, images: int) -> None:
        for reporter in self.reporters:
            reporter.step(trainer, images)

    def log(self, trainer: Any, values: dict[str, Any]) -> None:
        for reporter in self.reporters:
            reporter.log(trainer, values)

    def epoch(self, trainer: Any, values: dict[str, Any]) -> object:
        answers = [reporter.epoch(trainer, values) for reporter in self.reporters]
        return any(answer is True for answer in answers)

    def test(self, trainer: Any, values: dict[str, Any]) -> None:
        for reporter in self.reporters:
            if isinstance(reporter, Reporter):
                reporter.test(trainer, values)

    def finish(self, trainer: Any) -> None:
        self._finish(trainer, self.reporters)

    def _finish(self, trainer: Any, reporters: tuple[Callback, ...]) -> None:
        if reporters:
            try:
                reporters[0].finish(trainer)
            finally:
                self._finish(trainer, reporters[1:])


class Records(Callback):
    """Saves the metrics and checkpoints of a run in its folder."""

    def log(self, trainer: Any, values: dict[str, Any]) -> None:
        trainer.folder.add_metrics(values)

    def epoch(self, trainer: Any, values: dict[str, Any]) -> None:
        best = values["val_accuracy"] is not None and values["val_accuracy"] > trainer.best_accuracy
        if best:
            trainer.best_accuracy = values["val_accuracy"]
        trainer.folder.add_metrics(values)
        trainer.save(best)
