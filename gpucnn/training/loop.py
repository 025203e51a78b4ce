"""The one training loop and the one step in it: what ``Trainer`` and ``Classifier`` run, open to objects of your own."""

from __future__ import annotations

import copy
import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from gpucnn.autograd import Tensor
from gpucnn.backend import Backend, Generator, current_generator, default_backend, drawing_from
from gpucnn.captured import capture
from gpucnn.checks import is_count
from gpucnn.distributed import Communicator
from gpucnn.errors import DataError, DivergedError, ParameterError
from gpucnn.nn import Module
from gpucnn.nn.module import evaluating
from gpucnn.optim import Optimizer
from gpucnn.optim.optimizer import check_number
from gpucnn.training.average import EMA
from gpucnn.training.callback import Callback, arrays_of, load_arrays, telling
from gpucnn.training.interrupt import StopSignal
from gpucnn.training.loader import Batches, batches_of
from gpucnn.training.loss_scale import LossScale
from gpucnn.training.metrics import Loss, LossAndAccuracy, Metric, merged
from gpucnn.training.shards import Shards, check_sharded, sharded_step
from gpucnn.training.step import LossFunction, has_own_step, train_step

LOG_EVERY, LOGS, LOG_APART = 100, 5, 10
"""The loss is read after so many steps at most, or so many times an epoch if the readings are so many steps apart."""
"""Steps between two readings of the loss, each of which waits for the device."""


def measure(net: Module, loss: LossFunction, batches: Batches, metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return the values of ``metrics`` for ``net``, in evaluation mode, on all batches; its layers' modes are restored."""
    for metric in metrics:
        metric.start()
    with evaluating(net):
        for given in batches.epoch(0):
            x, y = batches.take(*given)
            output = net(x)
            value = loss(output, y)
            for metric in metrics:
                metric.update(value, output, y)
    return merged(metrics)


class Loop:
    """Trains a network: ``Loop(net, loss, optimizer, batches).run(epochs)``; ``history`` has a dict for each epoch.

    net: any Module. loss: any function of (output, targets) that returns a 0-d Tensor, such as a loss of ``nn``.
    optimizer: one of ``optim``, a subclass, or any object with ``zero_grad`` and ``step``. batches: those of a loader
    (``Loader.batches``), or any iterable of (inputs, targets), Tensors or NumPy arrays, that starts anew each epoch.
    metrics: see ``training.metrics``; the loss is always measured. callbacks: see ``training.callbacks``: schedules, early
    stopping, checkpoints, progress, your own. validation: batches that are measured after each epoch.
    scale: for networks in float16. generator: for dropout; by default a copy of this thread's generator, so that the loop
    draws the numbers that a loop written by hand would draw, and does not affect other code. clip_norm: the largest
    norm of all gradients together; larger ones are scaled down to it before the update. ema: the decay of an average of
    the weights, which validation, the callbacks' ``epoch`` and ``with loop.averaged()`` use.
    accumulate: parts of a batch whose gradients are added before an update. comm: the communicator of the processes that
    train together (``distributed.init()``); all make the same call, with the same batches, and each uses its own images.
    shards: the number of parts of every batch, a power of two, by default the number of processes: any number of
    processes that divides it gives the same bits.

    On a GPU a step is captured: batch, step and metrics are one launch. If the loss is no longer finite, the loop ends with
    DivergedError; after Ctrl-C the step finishes, then KeyboardInterrupt is raised. In both cases the network is as it was
    after the last step, and ``run`` continues from there.

    >>> import gpucnn
    >>> from gpucnn import nn, optim
    >>> net = nn.Linear(2, 2)
    >>> batches = [(gpucnn.tensor([[1.0, 2.0]]), gpucnn.tensor([1]))] * 3
    >>> loop = Loop(net, nn.CrossEntropyLoss(), optim.SGD(net.parameters(), lr=0.1), batches)
    >>> [sorted(values) for values in loop.run(epochs=2)]
    [['epoch', 'images_per_second', 'loss', 'seconds'], ['epoch', 'images_per_second', 'loss', 'seconds']]
    """

    def __init__(
        self,
        net: Module,
        loss: LossFunction,
        optimizer: Any,
        batches: Batches | Iterable[tuple[Any, Any]],
        metrics: Iterable[Metric] = (),
        callbacks: Iterable[Callback] = (),
        *,
        validation: Batches | Iterable[tuple[Any, Any]] | None = None,
        scale: LossScale | None = None,
        generator: Generator | None = None,
        clip_norm: float | None = None,
        ema: float | None = None,
        accumulate: int = 1,
        comm: Communicator | None = None,
        shards: int | None = None,
    ) -> None:
        self.comm = comm or Communicator()
        self.shards = Shards(self.comm, shards)
        self.backend = _backend_of(net)
        self.net, self.loss, self.optimizer, self.loss_scale = net, loss, optimizer, scale
        self.clip_norm, self.accumulate = clip_norm, accumulate
        self.average = None if ema is None else EMA(net, ema)
        self.batches = batches_of(batches, self.backend)
        self.validation = None if validation is None else batches_of(validation, self.backend)
        self.metrics, self.callbacks = list(metrics), list(callbacks)
        self._check()
        self._sharded = self.shards.count > 1
        self._takes_part = self.batches.take_part(self.shards.part)
        if self._sharded:
            check_sharded(net)
            if type(self).update is not Loop.update:
                raise ParameterError.expected("Loop", "shards", "1 for a loop with its own update", self.shards.count)
        drawn = current_generator()
        self.generator = Generator(drawn.seed, drawn.counter) if generator is None else generator
        running = next((m for m in self.metrics if isinstance(m, (Loss, LossAndAccuracy))), None)
        self._running: Loss | LossAndAccuracy = running or Loss()
        if running is None:
            self.metrics.insert(0, self._running)
        for metric in self.metrics:
            metric.to(self.backend)
        self._validation_metrics = copy.deepcopy(self.metrics) if self.validation is not None else []
        self.frozen: list[Module] = []  # layers that stay in evaluation mode
        self.epochs = 0  # wanted in all
        self.epoch = 0  # completed
        self.position = 0  # steps done in the epoch under way
        self.seconds = 0.0  # spent on the epoch under way
        self.stopped = False
        self.history: list[dict[str, Any]] = []
        self._steps = 0
        self._stop_signal = StopSignal()
        self._agreed: int | None = None  # the signal that some process got
        self.do_step = self._captured_step()

    def _check(self) -> None:
        """ParameterError for arguments of the wrong kind."""
        where = "Loop"
        if not is_count(self.accumulate, 1):
            raise ParameterError.expected(where, "accumulate", "a positive int", repr(self.accumulate))
        if self.clip_norm is not None:
            check_number(self.clip_norm, where, "clip_norm", 0, None)
        if not callable(self.loss):
            raise ParameterError.expected(where, "loss", "a function of (output, targets)", type(self.loss).__name__)
        if not isinstance(self.optimizer, Optimizer) and not all(
            callable(getattr(self.optimizer, name, None)) for name in ("zero_grad", "step")
        ):
            raise ParameterError.expected(
                where, "optimizer", "an Optimizer, or an object with zero_grad and step", type(self.optimizer).__name__
            )
        for argument, found, kind in (("metrics", self.metrics, Metric), ("callbacks", self.callbacks, Callback)):
            for one in found:
                if not isinstance(one, kind):
                    raise ParameterError.expected(
                        where, argument, f"{kind.__name__}s", type(one).__name__, f"subclass training.{kind.__name__}"
                    )

    def _captured_step(self) -> Callable[..., Any]:
        """Return the step, captured; it does not keep the loop alive, which ends with its last reference."""
        loop = weakref.ref(self)

        def step(count: int, *given: Tensor) -> None:
            owner = loop()
            assert owner is not None
            owner._step(count, *given)

        step.__qualname__ = "Loop.step"
        if has_own_step(self.optimizer) or self._sharded:
            return step  # what it holds is not known, or it reads what the processes say
        parts = (self.net, self.loss, self.loss_scale, self.average)
        held: list[Any] = [one for one in parts if isinstance(one, Module)]
        held += [self.optimizer, self.generator, *(metric.sums for metric in self.metrics), *self.batches.state]
        return capture(step, state=held)

    # --- training ------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Number of steps since the start of training."""
        return self._steps

    def run(self, epochs: int) -> list[dict[str, Any]]:
        """Train until ``epochs`` epochs in total are done or training is stopped; return ``history``."""
        if not is_count(epochs, 1):
            raise ParameterError.expected("Loop.run", "epochs", "a positive int", repr(epochs))
        with self.stop_signal() as self._stop_signal:
            self._run(epochs)
        return self.history

    def _run(self, epochs: int) -> None:
        self.epochs, self.stopped = epochs, False
        with drawing_from(self.generator), telling(self.callbacks, self):
            with self.averaged():
                self.begin()
            while self.epoch < epochs and not self.stopped:
                if not self._train_epoch():
                    break
                with self.averaged():
                    self._finish_epoch()
                if self._stop_number is not None and self.epoch < epochs and not self.stopped:
                    self.interrupt(self._stop_number)
            with self.averaged():
                self.end()

    def begin(self) -> None:
        """Hook for subclasses: called before the first epoch, after the callbacks' ``start``."""

    def end(self) -> None:
        """Hook for subclasses: called after the last epoch, before the callbacks' ``finish``."""

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the network has its averaged weights, if ``ema`` is set."""
        with self.average.applied() if self.average is not None else nullcontext():
            yield

    def restore(self, weights: Mapping[str, Any]) -> None:
        """Give the network, and the average if there is one, these weights of a ``state_dict``."""
        self.net.load_state_dict(weights)
        if self.average is not None:
            self.average.restart()

    def stop(self) -> None:
        """Stop training after the current step or epoch."""
        self.stopped = True

    def update(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Do a step on a batch and return its (loss, output), detached; override it for a step of your own."""
        return train_step(self.net, self.loss, self.optimizer, x, y, self.loss_scale, self.clip_norm, self.accumulate)

    def validate(self) -> dict[str, Any]:
        """Return the evaluation after an epoch: the metrics of the validation batches, as ``val_loss`` and so on."""
        if self.validation is None:
            return {}
        found = measure(self.net, self.loss, self.validation, self._validation_metrics)
        return {f"val_{name}": value for name, value in found.items()}

    def values(self, measured: dict[str, Any]) -> dict[str, Any]:
        """Return the values of the epoch that is being finished."""
        count = self._running.count
        timed = {"seconds": self.seconds, "images_per_second": count / max(self.seconds, 1e-9)}
        return {"epoch": self.epoch + 1, **merged(self.metrics), **timed, **measured}

    def stop_signal(self) -> StopSignal:
        """Return the handler of signals that stop training after a step."""
        return StopSignal(ctrl_c_alone=True)

    def interrupt(self, number: int) -> None:
        """Stop training because of this signal."""
        raise KeyboardInterrupt

    def diverged(self, loss: float) -> DivergedError:
        """Return the error that ends a training whose loss is not finite."""
        return DivergedError(
            f"training diverged: the loss is {loss} at or before step {self.step} (epoch {self.epoch + 1}). "
            "Try a smaller learning rate."
        )

    def _step(self, count: int, *given: Tensor) -> None:
        x, y = self.batches.take(count, *given)
        if self._sharded:
            self._sharded_update(count, x, y)
            return
        loss, output = self.update(x, y)
        if self.average is not None:
            self.average.update()
        for metric in self.metrics:
            metric.update(loss, output, y)

    def _sharded_update(self, count: int, x: Tensor, y: Tensor) -> None:
        if not self._takes_part:
            own = self.shards.part(count)
            x, y = x[own], y[own]
        self._agreed = sharded_step(
            self.shards, self.net, self.loss, self.optimizer, x, y, count, (self.generator.seed, self._steps),
            self.loss_scale, self.clip_norm, self.accumulate, self.metrics, self._stop_signal.number,
        )  # fmt: skip
        if self.average is not None:
            self.average.update()

    @property
    def _stop_number(self) -> int | None:
        """The signal that ends the training: with several processes what they agreed on at the last step."""
        return self._stop_signal.number if self.comm.size == 1 else self._agreed

    def _train_epoch(self) -> bool:
        """Do the remaining steps of an epoch; return whether all were done."""
        self.net.train()
        for layer in self.frozen:
            layer.eval()
        log_every = self._log_every()
        clock = time.perf_counter() - self.seconds
        for given in self.batches.epoch(self.epoch, self.position):
            self.do_step(*given)
            self._steps += 1
            self.position += 1
            for callback in self.callbacks:
                callback.step(self, given[0])
            if self.position % log_every == 0 and not self._is_last():
                self._log(self._running.last)
            self.seconds = time.perf_counter() - clock
            if self.stopped and not self._is_last():
                return False
            if self._stop_number is not None and not self._is_last():
                self.interrupt(self._stop_number)
        if not self.position:
            raise DataError.expected("Loop", "batches", "at least one batch in each epoch", "none")
        self.check_finite(merged([self._running])["loss"])
        self.seconds = time.perf_counter() - clock
        return True

    @property
    def steps_an_epoch(self) -> int | None:
        """Number of steps of an epoch; None for an iterable without a length."""
        try:
            return len(self.batches)
        except TypeError:
            return None

    def _log_every(self) -> int:
        steps = self.steps_an_epoch
        return LOG_EVERY if steps is None else min(LOG_EVERY, max(steps // LOGS, LOG_APART))

    def _is_last(self) -> bool:
        steps = self.steps_an_epoch
        return steps is not None and self.position >= steps

    def _finish_epoch(self) -> None:
        measured = self.validate()
        for name, value in measured.items():  # weights that were blown up by the epoch's last steps
            if name.endswith("loss"):
                self.check_finite(value)
        values = self.values(measured)
        self.epoch, self.position, self.seconds = self.epoch + 1, 0, 0.0
        for metric in self.metrics:
            metric.start()
        self.history.append(values)
        for callback in self.callbacks:
            if callback.epoch(self, values) is True:
                self.stop()

    def _log(self, loss: float) -> None:
        self.check_finite(loss)
        values = {"step": self.step, "epoch": self.epoch + 1, "loss": loss}
        values |= {f"running_{name}": value for name, value in self._running.values().items()}
        if (steps := self.steps_an_epoch) is not None:
            values["progress"] = self.epoch + self.position / steps
        groups = getattr(self.optimizer, "param_groups", ())
        if groups:
            values["lr"] = groups[0]["lr"]
        for callback in self.callbacks:
            callback.log(self, values)

    def check_finite(self, loss: float | None) -> None:
        """DivergedError for a loss that is no finite number."""
        if loss is not None and not math.isfinite(loss):
            raise self.diverged(loss)

    # --- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the loop as JSON values: its state besides network, optimiser and scale."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "step": self.step,
            "seconds": self.seconds,
            "metrics": [metric.state() for metric in self.metrics],
            "generator": {"seed": self.generator.seed, "counter": self.generator.counter},
            "loss_scale": self.loss_scale and self.loss_scale.state(),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "history": list(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; KeyError, TypeError or ValueError where it is of another loop."""
        self.epoch, self.position, self._steps = int(state["epoch"]), int(state["position"]), int(state["step"])
        self.seconds, self.history = float(state["seconds"]), [dict(values) for values in state["history"]]
        for metric, sums in zip(self.metrics, state["metrics"], strict=True):
            metric.load(sums)
        self.generator.seed, self.generator.counter = state["generator"]["seed"], state["generator"]["counter"]
        if self.loss_scale is not None:
            self.loss_scale.load(**state["loss_scale"])
        for callback, kept in zip(self.callbacks, state["callbacks"], strict=True):
            if kept is not None:
                callback.load_state_dict(kept)

    def arrays(self) -> dict[str, Any]:
        """Return the host arrays of the loop's state: those of ``ema``, and those of the callbacks."""
        return ({} if self.average is None else self.average.arrays()) | arrays_of(self.callbacks)

    def load_arrays(self, arrays: dict[str, Any]) -> dict[str, Any]:
        """Restore what ``arrays`` returned, where the network has its weights; return the arrays that are not the loop's."""
        return load_arrays(self.callbacks, arrays if self.average is None else self.average.restore(arrays))


def _backend_of(net: Module) -> Backend:
    if not isinstance(net, Module):
        raise ParameterError.expected("Loop", "net", "a Module", type(net).__name__)
    return next((parameter.backend for parameter in net.parameters()), None) or default_backend()
