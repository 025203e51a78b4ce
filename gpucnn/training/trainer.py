"""The trainer: epochs of ``train_step`` with a schedule, validation, metrics, checkpoints and a run folder."""

from __future__ import annotations

import math
import shlex
import time
import warnings
from dataclasses import asdict, replace
from typing import Any

from gpucnn import nn
from gpucnn.backend import Backend, default_generator, get_backend, manual_seed
from gpucnn.checkpoint import Checkpoint
from gpucnn.data import Dataset, Splits
from gpucnn.errors import CheckpointError, DivergedError, GpucnnError, UsageError
from gpucnn.training import environment
from gpucnn.training.epochs import Epochs
from gpucnn.training.evaluation import Evaluation, evaluate
from gpucnn.training.interrupt import InterruptedTraining, StopSignal
from gpucnn.training.loader import Loader, Normalisation
from gpucnn.training.loop import Callback
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.run_folder import RunFolder
from gpucnn.training.settings import PRECISIONS, Settings
from gpucnn.training.setup import (
    build_model,
    check_precision,
    make_optimizer,
    make_schedule,
    task_of,
    training_and_validation,
)

FREE_TO_CHANGE = ("epochs", "device", "target_accuracy", "data")
"""Settings that may differ on resuming; of ``data``, only where it lies."""

LOG_EVERY = 100
"""Steps between two looks at the loss, each of which waits for the device."""


class Reporter(Callback):
    """A callback that is told of a ``Trainer``; the methods of this base do nothing."""

    def start(self, trainer: Trainer) -> None:
        """Training begins, or goes on."""

    def step(self, trainer: Trainer, images: int) -> None:
        """A step on this many images is done."""

    def log(self, trainer: Trainer, values: dict[str, Any]) -> None:
        """The loss was read: step, epoch, loss, lr."""

    def epoch(self, trainer: Trainer, values: dict[str, Any]) -> object:
        """An epoch is done: the object that went to ``metrics.jsonl``."""

    def finish(self, trainer: Trainer) -> None:
        """Training stopped, in whichever way."""


class Trainer:
    """A run: what is trained, on what, how far it is. ``Trainer(...).train()`` does all of it.

    settings must be resolved. ``resume`` takes over the state of the folder's last checkpoint first.
    """

    def __init__(self, settings: Settings, splits: Splits, folder: RunFolder, reporter: Reporter | None = None) -> None:
        self.splits, self.folder = splits, folder
        self.reporter = reporter or Reporter()
        self.backend: Backend = get_backend(settings.device)
        check_precision(settings, self.backend)
        train, validation = training_and_validation(splits, settings)
        held_out = 0 if validation is None else len(validation)
        if settings.target_accuracy is not None and not held_out:
            raise UsageError.expected("train", "target_accuracy", "a validation split to measure it on", "none")
        settings = replace(settings, device=self.backend.name)
        if validation is None or validation is not splits.validation:
            settings = replace(settings, validation=held_out, val_split=None)
        self.settings = settings
        self.normalisation = Normalisation.of(train)
        dtype = PRECISIONS[settings.precision]
        self.train_feed = Loader(train, self.backend, self.normalisation, dtype, settings.augmentation)
        self.validation_feed = self._feed(validation) if validation is not None else None
        self.test_feed = self._feed(splits.test)
        manual_seed(settings.seed)
        self.net = build_model(
            settings.model, splits.train.image_shape, splits.train.classes, settings.precision, self.backend
        )
        self.loss_fn = nn.CrossEntropyLoss()
        self.optimizer = make_optimizer(settings, self.net)
        self.batches = -(-len(self.train_feed) // settings.batch_size)
        self.loss_scale = LossScale(self.backend) if settings.precision == "float16" else None
        self._epochs = Epochs(
            self.net, self.loss_fn, self.optimizer, self.train_feed, settings.batch_size, self.loss_scale
        )
        self.schedule = make_schedule(settings, self.optimizer, self.batches)
        self.epoch = 0  # epochs completed
        self.position = 0  # steps done in the epoch under way
        self.totals = self._epochs.totals
        self.seconds = 0.0  # spent on the epoch under way
        self.best_accuracy = -1.0
        self.history: list[dict[str, Any]] = []
        self.measured: dict[str, Evaluation] = {}  # "val" and "test", as they were after the last epoch
        self._saved_step = -1
        self._data_sha256 = splits.sha256()

    @property
    def step(self) -> int:
        """Steps done since the beginning."""
        return self.epoch * self.batches + self.position

    def _feed(self, data: Dataset) -> Loader:
        return Loader(data, self.backend, self.normalisation, PRECISIONS[self.settings.precision])

    # --- training ------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go back to where the folder's last checkpoint was saved; UsageError where it does not fit the settings.

        A run that was stopped before its first checkpoint begins again. Of a finished one, ``train`` finishes the report.
        Only ``epochs``, ``device`` and ``target_accuracy`` may differ from what they were, and where the same data lies.
        """
        self.folder.claim()
        try:
            if not self.folder.has_checkpoint() and len(self._epochs_noted()) <= 1:  # noted just before it is saved
                warnings.warn("there is no checkpoint yet: the run begins again", stacklevel=2)
            else:
                self._go_back_to(self.folder.load("last"))
            self.folder.keep_metrics_until(self.step)
        except BaseException:
            self.folder.release()
            raise
        self.history = self._epochs_noted()

    def _epochs_noted(self) -> list[dict[str, Any]]:
        return [values for values in self.folder.metrics() if "train_loss" in values]

    def _go_back_to(self, saved: Checkpoint) -> None:
        try:
            self._take_over(saved)
        except GpucnnError:
            raise
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.folder.path}: state.json lacks what a run needs ({type(error).__name__}: {error})."
            ) from None
        for change in self._changed_since(saved.state):
            warnings.warn(f"resumed with {change}: results may differ in their last bits", stacklevel=3)
        if self.epoch == self.settings.epochs:
            warnings.warn(f"all {self.epoch} epochs are done; for more, give the new total with --epochs", stacklevel=3)
        self._saved_step = self.step

    def train(self) -> dict[str, Any]:
        """Train to the last epoch and return its metrics.

        DivergedError where the loss is not finite; InterruptedTraining, after saving, on Ctrl-C, SIGTERM or SIGHUP.
        """
        with StopSignal() as stop, self.backend.tf32(self.settings.precision == "tf32"):
            self.folder.make()
            try:
                self._write_head()
                try:
                    self.reporter.start(self)
                    if self.epoch == self.settings.epochs:
                        self._finish_again()
                    while self.epoch < self.settings.epochs:
                        self._train_epoch(stop)
                        self._finish_epoch()
                        if stop.number and self.epoch < self.settings.epochs:
                            self._interrupt(stop.number)
                finally:
                    self.reporter.finish(self)
            except BaseException:
                self.folder.give_up()
                raise
            finally:
                self.folder.release()
        return self.history[-1]

    def _train_epoch(self, stop: StopSignal) -> None:
        self.net.train()
        seed = self.settings.seed, self.epoch
        clock = time.perf_counter() - self.seconds
        for images in self._epochs.steps(self.train_feed.order(*seed), self.position, seed):
            self.schedule.after_step()
            self.position += 1
            self.reporter.step(self, images)
            if self.position % LOG_EVERY == 0:
                self._log(self.totals.last)
            self.seconds = time.perf_counter() - clock
            if stop.number and self.position < self.batches:
                self._interrupt(stop.number)
        self._check_finite(self.totals.loss)
        self.seconds = time.perf_counter() - clock

    def _finish_epoch(self) -> None:
        values: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.step}
        values |= {"train_loss": self.totals.loss, "train_accuracy": self.totals.accuracy}
        values |= self._measure("val", self.validation_feed)
        values |= self._measure("test", self.test_feed)
        for name in ("val_loss", "test_loss"):  # weights that were blown up by the epoch's last steps
            self._check_finite(values[name])
        held_out = values["val_loss"]
        self.schedule.after_epoch(values["train_loss"] if held_out is None else held_out)
        values |= {"seconds": self.seconds, "images_per_second": self.totals.count / max(self.seconds, 1e-9)}
        self.epoch, self.position, self.seconds = self.epoch + 1, 0, 0.0
        self.totals.start()
        best = values["val_accuracy"] is not None and values["val_accuracy"] > self.best_accuracy
        if best:
            self.best_accuracy = values["val_accuracy"]
        self.history.append(values)
        self.folder.add_metrics(values)
        self._save(best)
        self.reporter.epoch(self, values)

    def _finish_again(self) -> None:
        """Measure what a report needs: the run may have been killed between its last checkpoint and its report."""
        measured = self._measure("val", self.validation_feed) | self._measure("test", self.test_feed)
        if not self.history or self.history[-1]["epoch"] != self.epoch:  # its line was damaged
            self.history.append({"epoch": self.epoch, "step": self.step} | measured)
        else:
            self.reporter.epoch(self, self.history[-1])

    def _measure(self, name: str, feed: Loader | None) -> dict[str, float | None]:
        if feed is None:
            return {f"{name}_loss": None, f"{name}_accuracy": None}
        try:
            result = self.measured[name] = evaluate(self.net, feed)
        except DivergedError:
            return {f"{name}_loss": math.nan, f"{name}_accuracy": None}
        return {f"{name}_loss": result.loss, f"{name}_accuracy": result.accuracy}

    def _log(self, loss: float) -> None:
        self._check_finite(loss)
        values = {"step": self.step, "epoch": self.epoch + 1, "loss": loss, "lr": self.optimizer.param_groups[0]["lr"]}
        self.folder.add_metrics(values)
        self.reporter.log(self, values)

    def _check_finite(self, loss: float | None) -> None:
        if loss is not None and not math.isfinite(loss):
            raise DivergedError(
                f"training diverged: the loss is {loss} at or before step {self.step} (epoch {self.epoch + 1}). "
                f"Try a smaller --lr than {self.settings.lr:g}. Checkpoints of before, if any: {self.folder.path}"
            )

    def _interrupt(self, number: int) -> None:
        if self._saved_step != self.step:
            self._check_finite(self.totals.loss)
            self._save(best=False)
        raise InterruptedTraining(
            f"Stopped at step {self.step} (epoch {self.epoch + 1}) and saved. "
            f"Continue with: gpucnn train --resume {shlex.quote(str(self.folder.path))}",
            128 + number,
        )

    # --- state ---------------------------------------------------------------------------------------------------

    def _write_head(self) -> None:
        about = environment.describe(self.backend)
        about |= {"seed": self.settings.seed, "data": {"name": self.splits.name, "sha256": self._data_sha256}}
        try:
            self.folder.write("config.toml", self.settings.to_toml())
            self.folder.write_environment(about)
        except GpucnnError:
            self.folder.abandon()
            raise

    def _save(self, best: bool) -> None:
        optimizer = self.optimizer.state_dict()
        state = {
            "epoch": self.epoch,
            "position": self.position,
            "batches": self.batches,
            "totals": self.totals.state(),
            "seconds": self.seconds,
            "best_accuracy": self.best_accuracy,
            "generator": {"seed": default_generator.seed, "counter": default_generator.counter},
            "optimizer": {"steps": optimizer["steps"], "param_groups": optimizer["param_groups"]},
            "schedule": self.schedule.state_dict(),
            "loss_scale": self.loss_scale and self.loss_scale.state(),
            **environment.decides_bits(self.backend),
            "settings": asdict(self.settings),
            "data_sha256": self._data_sha256,
            "task": task_of(self.settings, self.net, self.splits, self.normalisation),
        }
        self.folder.save(self.step, Checkpoint(self.net.state_dict(), optimizer["state"], state), best)
        self._saved_step = self.step

    def _take_over(self, saved: Checkpoint) -> None:
        state = saved.state
        for key, now in asdict(self.settings).items():
            before = state["settings"].get(key)
            if key not in FREE_TO_CHANGE and now != before:
                raise UsageError.expected(
                    "resume", key, f"{before}, as in the run so far", now, "leave it out, or start a new run"
                )
        if state["data_sha256"] != self._data_sha256 or state["batches"] != self.batches:
            raise UsageError(
                f"resume: the data set {self.settings.data} is not what the run was trained on so far. Start a new run."
            )
        if state["epoch"] > self.settings.epochs:
            raise UsageError.expected(
                "resume", "epochs", f"at least the {state['epoch']} that are done", f"{self.settings.epochs}",
                "give the new total with --epochs",
            )  # fmt: skip
        self.net.load_state_dict(saved.model)
        groups = [{**group, "betas": tuple(group["betas"])} if "betas" in group else group
                  for group in state["optimizer"]["param_groups"]]  # fmt: skip
        self.optimizer.load_state_dict({**state["optimizer"], "param_groups": groups, "state": saved.optimizer})
        self.schedule.load_state_dict(state["schedule"])
        if self.loss_scale is not None:
            self.loss_scale.load(**state["loss_scale"])
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        if not 0 <= self.position < self.batches:
            raise ValueError(f"position {self.position} of {self.batches}")
        totals = state["totals"]
        self.totals.start(float(totals["loss"]), int(totals["right"]), int(totals["count"]))
        self.seconds = float(state["seconds"])
        self.best_accuracy = float(state["best_accuracy"])
        default_generator.seed, default_generator.counter = state["generator"]["seed"], state["generator"]["counter"]

    def _changed_since(self, saved: dict[str, Any]) -> list[str]:
        """Return what differs from when the checkpoint was saved and may change the last bits of the results."""
        now = environment.decides_bits(self.backend)
        return [f"{key} {saved[key]} -> {value}" for key, value in now.items() if saved.get(key, value) != value]
