"""The trainer: a ``Loop`` with settings, validation, checkpoints and a run folder."""

from __future__ import annotations

import copy
import math
import shlex
import socket
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpucnn import nn
from gpucnn.backend import Generator, drawing_from, get_backend
from gpucnn.checkpoint import Checkpoint
from gpucnn.data import Dataset, Splits
from gpucnn.distributed import Communicator
from gpucnn.errors import CheckpointError, DivergedError, GpucnnError, ParameterError, UsageError, shortened
from gpucnn.optim import Optimizer
from gpucnn.training import environment
from gpucnn.training.callback import Callback
from gpucnn.training.callbacks import EarlyStopping, Schedule
from gpucnn.training.config import NEED_VALIDATION, PRECISIONS, Settings
from gpucnn.training.evaluation import Evaluation, evaluate
from gpucnn.training.factory import (
    build_model,
    check_precision,
    fitted,
    task_of,
    training_and_validation,
)
from gpucnn.training.fine_tuning import prepare, trainable
from gpucnn.training.interrupt import InterruptedTraining, StopSignal
from gpucnn.training.loader import Loader, Normalisation
from gpucnn.training.loop import Loop
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.metrics import LossAndAccuracy
from gpucnn.training.mixing import mixed
from gpucnn.training.objective import loss_for
from gpucnn.training.objects import naming_objects
from gpucnn.training.registry import make_optimizer, make_schedule
from gpucnn.training.reporters import Records, Reporter, Reporters
from gpucnn.training.run_folder import RunFolder
from gpucnn.training.step import LossFunction

FREE_TO_CHANGE = ("epochs", "device", "target_accuracy", "early_stopping", "test_each_epoch", "data", "workers")
"""Settings that may differ on resuming; of ``data``, only its location."""


class Trainer(Loop):
    """A loop with a run folder. ``Trainer(...).train()`` trains, saves and tests.

    settings must be resolved. reporter: one or several callbacks. Call ``resume`` first to restore the folder's last
    checkpoint. comm: the communicator of processes that train together, on one file system, with the same arguments except
    the folder: rank 0 writes to its folder, the others have a ``FollowedFolder``. net, loss, optimizer: objects of your own
    in place of those that the settings name: a Module that returns (B, classes) logits, a function of output and targets,
    and an Optimizer of the network's parameters; the data sets of ``splits`` may also be your own. Pass them again to resume
    a run. ParameterError or UsageError if they do not fit.
    """

    def __init__(
        self,
        settings: Settings,
        splits: Splits,
        folder: RunFolder,
        reporter: Callback | Iterable[Callback] | None = None,
        comm: Communicator | None = None,
        *,
        net: nn.Module | None = None,
        loss: LossFunction | None = None,
        optimizer: Optimizer | None = None,
    ) -> None:
        self.splits, self.folder = splits, folder
        settings = naming_objects(settings, net, loss, optimizer)
        comm = comm or Communicator()
        self.reporter = reporter if isinstance(reporter, Callback) else Reporters(*(reporter or ()))
        backend = self.backend = get_backend(settings.device)
        check_precision(settings, backend)
        train, validation = training_and_validation(splits, settings)
        held_out = 0 if validation is None else len(validation)
        for key in NEED_VALIDATION:
            if getattr(settings, key) is not None and not held_out:
                raise UsageError.expected("train", key, "a validation split to measure it on", "none")
        settings = replace(settings, device=backend.name)
        if validation is None or validation is not splits.validation:
            settings = replace(settings, validation=held_out, val_split=None)
        self.settings = settings
        self.normalisation = Normalisation.of(train)
        dtype = PRECISIONS[settings.precision]
        self.train_loader = Loader(train, backend, self.normalisation, dtype, settings.augmentation, settings.workers)
        self.validation_loader = self._loader(validation) if validation is not None else None
        self.test_loader = self._loader(splits.test)
        generator = Generator(settings.seed)
        task = settings.model, splits.train.image_shape, splits.train.classes, settings.precision, backend
        with drawing_from(generator):
            net = build_model(*task) if net is None else fitted(net.to(backend), *task)
        frozen = prepare(net, settings.init_from if folder.begins() else None, settings.freeze)
        if optimizer is None:
            optimizer = make_optimizer(
                settings.optimizer, trainable(net), settings.lr, settings.momentum, settings.weight_decay
            )
        batches = self.train_loader.batches(settings.batch_size, settings.seed)
        self.schedule = Schedule(
            make_schedule(settings.schedule, optimizer, settings.epochs * len(batches), len(batches))
        )
        patience = settings.early_stopping  # best weights are those of the checkpoint best
        self.stopping = [EarlyStopping(patience, "val_accuracy", restore_best=False)] if patience is not None else []
        self.totals = LossAndAccuracy()
        super().__init__(
            net,
            loss_for(settings, train, backend, dtype) if loss is None else loss,
            optimizer,
            mixed(batches, settings.seed, settings.mixup, settings.cutmix),
            [self.totals],
            [self.schedule, *self.stopping, Records(), self.reporter],
            scale=LossScale(backend) if settings.precision == "float16" else None,
            generator=generator,
            clip_norm=settings.clip_norm,
            ema=settings.ema,
            accumulate=settings.accumulate,
            comm=comm,
            shards=settings.shards,
        )
        self.frozen = frozen
        self.best_accuracy = -1.0
        self.measured: dict[str, Evaluation] = {}  # "val", of the last epoch, and "test", of the latest time
        self.tested: dict[str, Any] | None = None  # what the test at the end gave
        self.tested_net: nn.Module | None = None  # of which network
        self._saved_step = -1
        self._data_sha256 = splits.sha256()
        self._check_alike()

    def _loader(self, data: Dataset) -> Loader:
        settings = self.settings
        return Loader(data, self.backend, self.normalisation, PRECISIONS[settings.precision], workers=settings.workers)

    # --- training ------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Restore the folder's last checkpoint; UsageError if it does not fit the settings.

        A run that was stopped before its first checkpoint starts again; for a finished one, ``train`` completes the report.
        Only the settings in ``FREE_TO_CHANGE`` may differ from before; of ``data`` only its location.
        """
        self.folder.claim()
        try:
            if not self.folder.has_checkpoint() and len(self._epochs_noted()) <= 1:  # noted just before it is saved
                warnings.warn("there is no checkpoint yet: the run begins again", stacklevel=2)
            else:
                self._go_back_to(self.folder.load("last"))
            self.folder.keep_metrics_until(self.step)
            self.comm.barrier()  # what the others read
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
                f"{self.folder.path}: state.json lacks what a run needs ({type(error).__name__}: {shortened(error)})."
            ) from None
        for change in self._changed_since(saved.state):
            warnings.warn(f"resumed with {change}: results may differ in their last bits", stacklevel=3)
        if self.epoch == self.settings.epochs:
            warnings.warn(f"all {self.epoch} epochs are done; for more, give the new total with --epochs", stacklevel=3)
        self._saved_step = self.step

    def train(self) -> dict[str, Any]:
        """Train to the last epoch, measure the test set on the best checkpoint, and return the result.

        The test set is measured once, at the end, on the checkpoint that evaluation and prediction use: the best, or the
        last if there is no validation. Returns epoch, step and name of the ``checkpoint``, test_loss and test_accuracy.
        DivergedError if the loss is not finite; InterruptedTraining, after saving, on Ctrl-C, SIGTERM or SIGHUP.
        """
        with StopSignal() as self._stop_signal, self.backend.tf32(self.settings.precision == "tf32"):
            self.folder.make()
            self.folder.path = Path(self.comm.gather(str(self.folder.path))[0])
            try:
                self._write_head()
                self._run(self.settings.epochs)
            except BaseException:
                self.folder.give_up()
                raise
            finally:
                self.folder.release()
        assert self.tested is not None
        return self.tested

    def run(self, epochs: int) -> list[dict[str, Any]]:
        """Do as ``train`` does; ``epochs`` must be that of the settings, which the schedule depends on."""
        if epochs != self.settings.epochs:
            raise ParameterError.expected(
                "Trainer.run", "epochs", f"{self.settings.epochs}, as in the settings", epochs
            )
        self.train()
        return self.history

    def begin(self) -> None:
        if self.epoch == self.settings.epochs or self.stopped:
            self._finish_again()

    def end(self) -> None:
        """Evaluate the test set on the checkpoint that ``evaluate`` uses by default."""
        self.comm.barrier()  # the checkpoints that rank 0 writes are there
        checkpoint, net, epoch, step = "last", self.net, self.epoch, self.step
        if self.folder.default_checkpoint() == "best":
            checkpoint, best = "best", self.folder.load("best")
            epoch, step = int(best.state["epoch"]), int(best.state["step"])
            if step != self.step:
                net = copy.deepcopy(self.net)
                net.load_state_dict(best.model)
        if net is self.net and self.average is not None:  # it gets its own weights back
            net = copy.deepcopy(self.net)
        result, self.tested_net = evaluate(net, self.test_loader, comm=self.comm), net
        self.measured["test"] = result
        self.tested = {"epoch": epoch, "step": step, "checkpoint": checkpoint}
        self.tested |= {"test_loss": result.loss, "test_accuracy": result.accuracy}
        if self.tested not in self.folder.metrics():
            self.folder.add_metrics(self.tested)
        if isinstance(self.reporter, Reporter):
            self.reporter.test(self, self.tested)

    def _finish_again(self) -> None:
        """Evaluate what the report needs: the run may have been killed between its last checkpoint and its report."""
        measured = self.validate()
        if not self.history or self.history[-1]["epoch"] != self.epoch:  # its line was damaged
            self.history.append({"epoch": self.epoch, "step": self.step} | measured)
        else:
            self.reporter.epoch(self, self.history[-1])

    def values(self, measured: dict[str, Any]) -> dict[str, Any]:
        loss, accuracy = self.totals.loss, self.totals.accuracy
        values: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.step, "train_loss": loss}
        values |= {"train_accuracy": accuracy, **measured, "seconds": self.seconds}
        values["images_per_second"] = self.totals.count / max(self.seconds, 1e-9)
        return {**values, "lr": self.optimizer.param_groups[0]["lr"]}

    def validate(self) -> dict[str, Any]:
        each = self.test_loader if self.settings.test_each_epoch else None
        return self._measure("val", self.validation_loader) | self._measure("test", each)

    def _measure(self, name: str, loader: Loader | None) -> dict[str, float | None]:
        if loader is None:
            return {f"{name}_loss": None, f"{name}_accuracy": None}
        try:
            result = self.measured[name] = evaluate(self.net, loader, comm=self.comm)
        except DivergedError:
            return {f"{name}_loss": math.nan, f"{name}_accuracy": None}
        return {f"{name}_loss": result.loss, f"{name}_accuracy": result.accuracy}

    def diverged(self, loss: float) -> DivergedError:
        return DivergedError(
            f"training diverged: the loss is {loss} at or before step {self.step} (epoch {self.epoch + 1}). "
            f"Try a smaller --lr than {self.settings.lr:g}. Checkpoints of before, if any: {self.folder.path}"
        )

    def interrupt(self, number: int) -> None:
        if self._saved_step != self.step:
            self.check_finite(self.totals.loss)
            self.save(best=False)
        raise InterruptedTraining(
            f"Stopped at step {self.step} (epoch {self.epoch + 1}) and saved. "
            f"Continue with: gpucnn train --resume {shlex.quote(str(self.folder.path))}",
            128 + number,
        )

    # --- state ---------------------------------------------------------------------------------------------------

    def _check_alike(self) -> None:
        """UsageError, naming rank and host, unless all processes have the same settings, data, versions and kernels."""
        if self.comm.size == 1:
            return
        own = {key: str(value) for key, value in environment.decides_bits(self.backend).items()}
        own |= {
            "settings": replace(self.settings, device="").to_toml(),
            "data set": str(self._data_sha256),
            "host": socket.gethostname(),
        }
        first, *others = self.comm.gather(own)
        for rank, other in enumerate(others, start=1):
            for key in sorted((first.keys() | other.keys()) - {"host", "device", "processor"}):
                if first.get(key) != other.get(key):
                    wanted, found = (shortened(str(one.get(key))) for one in (first, other))
                    raise UsageError.expected(
                        f"rank {rank} on {other['host']}", key, f"as rank 0 has it, {wanted}", found,
                        "processes must be alike to get the same bits",
                    )  # fmt: skip

    def _write_head(self) -> None:
        about = environment.describe(self.backend)
        about |= {"seed": self.settings.seed, "data": {"name": self.splits.name, "sha256": self._data_sha256}}
        if self.comm.size > 1:
            own = self.backend.describe()
            own = {key: own[key] for key in ("device", "gpu", "threads") if key in own}
            about["processes"] = self.comm.gather({"rank": self.comm.rank, "host": socket.gethostname(), **own})
        try:
            self.folder.write("config.toml", self.settings.to_toml())
            self.folder.write_environment(about)
        except GpucnnError:
            self.folder.abandon()
            raise

    def save(self, best: bool) -> None:
        """Save a checkpoint of the current state, and point ``best`` at it if it is the best."""
        optimizer = self.optimizer.state_dict()
        arrays = optimizer["state"] | ({} if self.average is None else self.average.arrays())
        with self.averaged():
            weights = self.net.state_dict()
        state = {
            "early_stopping": [stopping.state_dict() for stopping in self.stopping],
            "epoch": self.epoch,
            "position": self.position,
            "batches": len(self.batches),
            "totals": self.totals.state(),
            "seconds": self.seconds,
            "best_accuracy": self.best_accuracy,
            "generator": {"seed": self.generator.seed, "counter": self.generator.counter},
            "optimizer": {"steps": optimizer["steps"], "param_groups": optimizer["param_groups"]},
            "schedule": self.schedule.state_dict(),
            "loss_scale": self.loss_scale and self.loss_scale.state(),
            **environment.decides_bits(self.backend),
            "settings": asdict(self.settings),
            "data_sha256": self._data_sha256,
            "decodes": self.splits.train.decodes,
            "task": task_of(self.settings, self.net, self.splits, self.normalisation),
        }
        self.folder.save(self.step, Checkpoint(weights, arrays, state), best)
        self._saved_step = self.step

    def _take_over(self, saved: Checkpoint) -> None:
        state = saved.state
        for key, now in asdict(self.settings).items():
            before = state["settings"].get(key, getattr(Settings, key, None))
            if key not in FREE_TO_CHANGE and now != before:
                raise UsageError.expected(
                    "resume", key, f"{shortened(before)}, as in the run so far", now, "leave it out, or start a new run"
                )
        if state.get("decodes", False) != self.splits.train.decodes:
            kinds = {False: "all in memory", True: "read from their files as needed"}
            raise UsageError.expected(
                "resume", "images", f"{kinds[not self.splits.train.decodes]}, as in the run so far",
                kinds[self.splits.train.decodes], "set GPUCNN_DATA_MEMORY, the memory that they may take",
            )  # fmt: skip
        if state["data_sha256"] != self._data_sha256 or state["batches"] != len(self.batches):
            raise UsageError(
                f"resume: the data set {self.settings.data} is not what the run was trained on so far. Start a new run."
            )
        if state["epoch"] > self.settings.epochs:
            raise UsageError.expected(
                "resume", "epochs", f"at least the {shortened(state['epoch'])} that are done", f"{self.settings.epochs}",
                "give the new total with --epochs",
            )  # fmt: skip
        self.net.load_state_dict(saved.model)
        arrays = saved.optimizer if self.average is None else self.average.restore(saved.optimizer)
        self.optimizer.load_state_dict({**state["optimizer"], "state": arrays})
        for stopping, kept in zip(self.stopping, state.get("early_stopping", ()), strict=False):
            stopping.load_state_dict(kept)
        if state["schedule"] is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.loss_scale is not None:
            self.loss_scale.load(**state["loss_scale"])
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        if not 0 <= self.position < len(self.batches):
            raise ValueError(f"position {self.position} of {len(self.batches)}")
        self._steps = self.epoch * len(self.batches) + self.position
        self.totals.load(state["totals"])
        self.seconds = float(state["seconds"])
        self.best_accuracy = float(state["best_accuracy"])
        self.generator.seed, self.generator.counter = state["generator"]["seed"], state["generator"]["counter"]

    def _changed_since(self, saved: dict[str, Any]) -> list[str]:
        """Return differences from the environment of the checkpoint that may change the last bits of the results."""
        now = environment.decides_bits(self.backend)
        return [f"{key} {saved[key]} -> {value}" for key, value in now.items() if saved.get(key, value) != value]
