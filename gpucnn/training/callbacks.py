"""Callbacks for a ``Loop``: schedules, early stopping, checkpoints, progress. Subclass ``Callback`` for your own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gpucnn import checkpoint
from gpucnn.checkpoint import Checkpoint
from gpucnn.checks import is_count
from gpucnn.errors import CheckpointError, GpucnnError, ParameterError, shortened
from gpucnn.optim.lr_scheduler import LRScheduler
from gpucnn.training.callback import Callback
from gpucnn.training.metrics import merged


class EachEpoch(Callback):
    """Calls a function with the values of each epoch, as ``EachEpoch(inspect.LiveCurves())``; True ends the training.

    If it has a method ``log``, as ``LiveCurves`` does, that is called with the values read within an epoch.

    >>> EachEpoch(print).epoch(None, {"epoch": 1})
    {'epoch': 1}
    """

    def __init__(self, function: Callable[[dict[str, Any]], object]) -> None:
        self._function = function

    def log(self, loop: Any, values: dict[str, Any]) -> None:
        if callable(log := getattr(self._function, "log", None)):
            log(values)

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        return self._function(values)


class Schedule(Callback):
    """Advances a learning rate schedule: after each step, or after each epoch if it depends on a metric.

    scheduler: any of ``optim.lr_scheduler`` or None, which does nothing. each_epoch: advance after each epoch instead of
    each step. The metric is the validation loss or, without validation, the training loss.
    """

    def __init__(self, scheduler: LRScheduler | None, each_epoch: bool = False) -> None:
        if scheduler is not None and not isinstance(scheduler, LRScheduler):
            raise ParameterError.expected("Schedule", "scheduler", "an LRScheduler", type(scheduler).__name__)
        self.scheduler, self._each_epoch = scheduler, each_epoch

    def step(self, loop: Any, images: int) -> None:
        if self.scheduler is not None and not self.scheduler.needs_measure and not self._each_epoch:
            self.scheduler.step()

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        if self.scheduler is not None:
            if self.scheduler.needs_measure:
                self.scheduler.step(_validation_loss(values))  # type: ignore[call-arg]
            elif self._each_epoch:
                self.scheduler.step()
        return None

    def state_dict(self) -> dict[str, Any] | None:
        return None if self.scheduler is None else self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state)


class EarlyStopping(Callback):
    """Stops training when a value has not improved for ``patience`` epochs, and restores the best weights.

    monitor: the value to watch; by default ``val_loss``, or ``loss`` without validation. mode: whether lower ("min") or
    higher ("max") is better; by default higher for accuracies and other fractions, lower for losses. min_delta: the smallest
    change that counts as an improvement. restore_best: give the network the weights of the best epoch in the end, for
    whatever reason training ends; ``best_epoch`` is its number. ``Checkpoints`` saves these weights too, so they outlive the
    process. Raises ParameterError.

    >>> EarlyStopping(patience=3).patience
    3
    """

    def __init__(
        self, patience: int = 5, monitor: str | None = None, mode: str | None = None, min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:  # fmt: skip
        if not is_count(patience, 1):
            raise ParameterError.expected("EarlyStopping", "patience", "a positive int", repr(patience))
        if mode not in ("min", "max", None):
            raise ParameterError.expected("EarlyStopping", "mode", "'min' or 'max'", repr(mode))
        self.patience, self.monitor, self.mode, self.min_delta = patience, monitor, mode, min_delta
        self.restore_best = restore_best
        self._begin()

    def _begin(self) -> None:
        self.best: float | None = None
        self.best_epoch = self.bad_epochs = 0
        self._weights: dict[str, Any] | None = None

    def start(self, loop: Any) -> None:
        if not loop.step:
            self._begin()
        elif self.bad_epochs >= self.patience:  # resumed after it stopped
            loop.stop()

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        monitor = self.monitor or ("val_loss" if values.get("val_loss") is not None else _loss_name(values))
        value = values.get(monitor)
        if not isinstance(value, (int, float)):
            known = ", ".join(name for name, one in values.items() if isinstance(one, (int, float)))
            raise ParameterError.expected("EarlyStopping", "monitor", f"one of {known}", repr(monitor))
        lower = self.mode == "min" or (self.mode is None and monitor.endswith("loss"))
        gain = 0.0 if self.best is None else (self.best - value if lower else value - self.best)
        if self.best is None or gain > self.min_delta:
            self.best, self.best_epoch, self.bad_epochs = float(value), values["epoch"], 0
            self._weights = loop.net.state_dict() if self.restore_best else None
            return None
        self.bad_epochs += 1
        return self.bad_epochs >= self.patience

    def finish(self, loop: Any) -> None:
        if self._weights is not None:
            loop.restore(self._weights)
            self._weights = None

    def state_dict(self) -> dict[str, Any] | None:
        return {"best": self.best, "best_epoch": self.best_epoch, "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = None if state["best"] is None else float(state["best"])
        self.best_epoch, self.bad_epochs = int(state["best_epoch"]), int(state["bad_epochs"])

    def arrays(self) -> dict[str, Any]:
        return dict(self._weights or {})

    def load_arrays(self, arrays: dict[str, Any]) -> None:
        self._weights = dict(arrays) if arrays and self.restore_best else None


class Checkpoints(Callback):
    """Saves network, optimiser, loop and callbacks to a folder after each epoch; ``resume`` continues from the last one.

    Put it last in the list: callbacks after it have not seen the epoch yet when it is saved.

    ``gpucnn.checkpoint`` describes the folder: checkpoints are written whole; ``last`` and ``best`` point to two of them.
    monitor: the value that decides ``best``; by default ``val_accuracy``, if it is measured. mode: whether the highest
    ("max") or the lowest ("min") is best.

    >>> Checkpoints("checkpoints").folder.name
    'checkpoints'
    """

    def __init__(
        self, folder: str | os.PathLike[str], resume: bool = False, monitor: str = "val_accuracy", mode: str = "max"
    ) -> None:
        if mode not in ("min", "max"):
            raise ParameterError.expected("Checkpoints", "mode", "'min' or 'max'", repr(mode))
        self.folder, self._resumes, self.monitor, self._sign = Path(folder), resume, monitor, 1 if mode == "max" else -1
        self.best: float | None = None

    def resume(self, loop: Any) -> None:
        path = checkpoint.find(self.folder, "last") if self._resumes and self.folder.is_dir() else None
        if path is not None:
            self._go_on(loop, path)

    def _go_on(self, loop: Any, path: Path) -> None:
        saved = checkpoint.load(path)
        try:
            loop.net.load_state_dict(saved.model)
            arrays = loop.load_arrays(saved.optimizer)
            loop.optimizer.load_state_dict({**saved.state["optimizer"], "state": arrays})
            loop.load_state_dict(saved.state["loop"])
        except GpucnnError:
            raise
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: is not of this loop ({type(error).__name__}: {shortened(error)})."
            ) from None

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        value = values.get(self.monitor)
        best = value is not None and (self.best is None or (value - self.best) * self._sign > 0)
        if best:
            self.best = value
        optimizer = loop.optimizer.state_dict()
        arrays = optimizer.pop("state") | loop.arrays()
        state = {"optimizer": optimizer, "loop": loop.state_dict()}
        try:
            checkpoint.save(self.folder, loop.step, Checkpoint(loop.net.state_dict(), arrays, state), best)
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot save step {loop.step} ({error.strerror}).") from None
        return None

    def state_dict(self) -> dict[str, Any] | None:
        return {"best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = None if state["best"] is None else float(state["best"])


class Progress(Callback):
    """Prints a line for each epoch; with ``each_batch`` one for each batch too, with the metrics of the epoch so far.

    >>> class Two:
    ...     epochs = 2
    >>> Progress().epoch(Two(), {"epoch": 1, "loss": 0.25, "accuracy": 0.5, "seconds": 1.0, "images_per_second": 7.0})
    epoch 1/2: loss 0.2500, accuracy 0.5000, 1.0 s
    """

    def __init__(self, each_batch: bool = False) -> None:
        self._each_batch = each_batch

    def step(self, loop: Any, images: int) -> None:
        if self._each_batch:
            steps = loop.steps_an_epoch
            place = f"batch {loop.position}" if steps is None else f"batch {loop.position}/{steps}"
            print(f"epoch {loop.epoch + 1}/{loop.epochs}, {place}: {_figures(merged(loop.metrics))}", flush=True)

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        print(f"epoch {values['epoch']}/{loop.epochs}: {_figures(values)}, {values['seconds']:.1f} s", flush=True)
        return None


def _figures(values: dict[str, Any]) -> str:
    skipped = ("epoch", "step", "seconds", "images_per_second")
    numbers = [(name, value) for name, value in values.items() if isinstance(value, float) and name not in skipped]
    return ", ".join(
        f"{name.replace('val_', 'validation ', 1).replace('_', ' ')} {value:.4f}" for name, value in numbers
    )


def callbacks_of(given: Any) -> list[Callback]:
    """Return a callback, a function of an epoch's values, or a list of such, as callbacks; otherwise ParameterError."""
    if given is None:
        return []
    if isinstance(given, Callback):
        return [given]
    if callable(given):
        return [EachEpoch(given)]
    if isinstance(given, Iterable):
        return [callback for one in given for callback in callbacks_of(one)]
    raise ParameterError.expected("callbacks", "a callback", "a Callback or a function", type(given).__name__)


def _loss_name(values: dict[str, Any]) -> str:
    return "loss" if "loss" in values else "train_loss"


def _validation_loss(values: dict[str, Any]) -> float:
    loss = values.get("val_loss")
    return float(values[_loss_name(values)] if loss is None else loss)
