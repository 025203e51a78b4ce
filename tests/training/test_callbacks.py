"""Callbacks: schedules, early stopping with the best weights, checkpoints, progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpucnn
from gpucnn import checkpoint, nn, optim
from gpucnn.errors import CheckpointError, ParameterError
from gpucnn.optim import lr_scheduler
from gpucnn.training import Callback, Checkpoints, EachEpoch, EarlyStopping, Loop, Progress, Schedule
from gpucnn.training.callbacks import callbacks_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32)
BATCHES = [(X[i : i + 10], Y[i : i + 10]) for i in range(0, 40, 10)]


def loop_of(*callbacks: Callback, net: nn.Module | None = None, kind: Any = optim.Adam) -> Loop:
    if net is None:
        gpucnn.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
    return Loop(net, nn.MSELoss(), kind(net.named_parameters(), lr=0.05), BATCHES, callbacks=callbacks)


def state(net: nn.Module) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in net.state_dict().items()}


class Scripted(Callback):
    """Puts values into an epoch's, as a validation would, and keeps the weights of each epoch."""

    def __init__(self, name: str, values: Sequence[float]) -> None:
        self.name, self.values, self.weights = name, values, []

    def epoch(self, loop: Any, values: dict[str, Any]) -> None:
        values[self.name] = self.values[values["epoch"] - 1]
        self.weights.append(state(loop.net))


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_restores_the_best_weights(restore: bool) -> None:
    script = Scripted("val_loss", [3.0, 1.0, 2.0, 1.0, 1.5, 0.1])
    stopping = EarlyStopping(patience=3, restore_best=restore)
    loop = loop_of(script, stopping)
    loop.run(6)
    assert (len(loop.history), stopping.best, stopping.best_epoch) == (5, 1.0, 2)
    assert state(loop.net) == script.weights[1 if restore else 4]


def test_early_stopping_looks_at_what_it_is_told_to() -> None:
    rising = Scripted("val_accuracy", [0.5, 0.6, 0.61, 0.62, 0.9])
    loop = loop_of(rising, EarlyStopping(2, monitor="val_accuracy", min_delta=0.05))
    loop.run(5)
    assert len(loop.history) == 4
    falling = Scripted("error", [0.5, 0.4, 0.45, 0.46, 0.1])
    loop = loop_of(falling, EarlyStopping(2, monitor="error", mode="min"))
    loop.run(5)
    assert len(loop.history) == 4
    loop = loop_of(EarlyStopping(1, min_delta=1e9))
    loop.run(5)
    assert len(loop.history) == 2, "without a validation it looks at the training loss"
    with pytest.raises(ParameterError, match=r"monitor: expected one of epoch, loss, .*got 'val_loss'"):
        loop_of(EarlyStopping(monitor="val_loss")).run(1)
    for wrong in ({"patience": 0}, {"patience": True}, {"mode": "up"}):
        with pytest.raises(ParameterError, match="EarlyStopping"):
            EarlyStopping(**wrong)


def test_the_best_weights_are_restored_however_it_ends_and_it_begins_anew() -> None:
    class Fails(Callback):
        def epoch(self, loop: Any, values: dict[str, Any]) -> None:
            if values["epoch"] == 3:
                raise KeyboardInterrupt

    script, stopping = Scripted("val_loss", [3.0, 1.0, 2.0]), EarlyStopping(5)
    loop = loop_of(script, stopping, Fails())
    with pytest.raises(KeyboardInterrupt):
        loop.run(9)
    assert state(loop.net) == script.weights[1]
    again = loop_of(Scripted("val_loss", [9.0, 8.0]), stopping)
    again.run(2)
    assert (stopping.best, stopping.best_epoch) == (8.0, 2), "another training knows nothing of the one before"


def test_schedules_move_after_steps_epochs_or_measures() -> None:
    def rates(make: Any, **options: Any) -> list[float]:
        found: list[float] = []
        loop = loop_of(kind=optim.SGD)
        loop.callbacks[:] = [Schedule(make(loop.optimizer), **options), EachEpoch(lambda _: found.append(lr()))]

        def lr() -> float:
            return loop.optimizer.param_groups[0]["lr"]

        loop.run(3)
        return found

    step = lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.5)  # noqa: E731
    assert rates(step) == pytest.approx([0.05 * 0.5**4, 0.05 * 0.5**8, 0.05 * 0.5**12])
    assert rates(step, each_epoch=True) == pytest.approx([0.05 * 0.5, 0.05 * 0.25, 0.05 * 0.125])
    assert rates(lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", 0.5, patience=0)) == pytest.approx(
        [0.05, 0.025, 0.0125]
    )
    with pytest.raises(ParameterError, match="scheduler: expected an LRScheduler"):
        Schedule(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_best_weights_outlive_the_process(tmp_path: Path, ema: float | None) -> None:
    values = [3.0, 1.0, 2.0, 2.5, 2.2, 0.1]

    def make(patience: int, until: int) -> tuple[Loop, EarlyStopping, Scripted]:
        script, stopping = Scripted("val_loss", values), EarlyStopping(patience)
        gpucnn.manual_seed(1)
        net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
        callbacks = [script, stopping, Checkpoints(tmp_path / "run", resume=True)]
        loop = Loop(net, nn.MSELoss(), optim.Adam(net.parameters(), lr=0.05), BATCHES, callbacks=callbacks, ema=ema)
        loop.run(until)
        return loop, stopping, script

    _, _, first = make(3, 3)
    loop, stopping, _ = make(3, 6)
    assert (loop.epoch, stopping.best_epoch) == (5, 2)
    assert state(loop.net) == first.weights[1]
    loop, stopping, script = make(3, 6)
    assert (loop.epoch, script.weights) == (5, []), "it had stopped, and trains no further epoch"
    assert state(loop.net) == first.weights[1], "the best weights again"
    loop, stopping, script = make(9, 6)
    assert (loop.epoch, stopping.best_epoch, stopping.bad_epochs) == (6, 6, 0), "more patience: it goes on"


def test_checkpoints_go_on_with_the_same_bits(tmp_path: Path) -> None:
    def make(resume: bool) -> Loop:
        loop = loop_of()
        schedule = Schedule(lr_scheduler.CosineAnnealingLR(loop.optimizer, 24))
        loop.callbacks[:] = [
            schedule,
            EarlyStopping(9, restore_best=False),
            Checkpoints(tmp_path / "run", resume, "loss", "min"),
        ]
        return loop

    whole = loop_of()
    whole.callbacks[:] = [Schedule(lr_scheduler.CosineAnnealingLR(whole.optimizer, 24))]
    whole.run(6)
    make(resume=True).run(2)
    first = make(resume=True)
    first.run(4)
    assert [values["epoch"] for values in first.history] == [1, 2, 3, 4]
    second = make(resume=True)
    second.run(6)
    assert state(second.net) == state(whole.net)
    assert [v["loss"] for v in second.history] == [v["loss"] for v in whole.history]
    losses = [v["loss"] for v in whole.history]
    best = checkpoint.load(checkpoint.find(tmp_path / "run", "best"))  # type: ignore[arg-type]
    assert best.state["step"] == 4 * (1 + losses.index(min(losses)))


def test_checkpoints_of_another_network_are_refused(tmp_path: Path) -> None:
    loop_of(Checkpoints(tmp_path)).run(1)
    with pytest.raises(CheckpointError, match="expected"):
        loop_of(Checkpoints(tmp_path, resume=True), net=nn.Linear(3, 1)).run(2)
    with pytest.raises(CheckpointError, match="is not of this loop"):
        loop_of(Callback(), Checkpoints(tmp_path, resume=True)).run(2)
    with pytest.raises(ParameterError, match="mode"):
        Checkpoints(tmp_path, mode="best")


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    loop = loop_of(Progress())
    loop.run(2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"epoch {i + 1}/2: loss {loop.history[i]['loss']:.4f}" for i in (0, 1)
    ]


def test_progress_of_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    means: list[float] = []

    class Watching(Callback):
        def step(self, loop: Any, images: int) -> None:
            means.append(loop.metrics[0].values()["loss"])

    loop_of(Progress(each_batch=True), Watching()).run(2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (4 + 1)
    assert lines[:4] == [f"epoch 1/2, batch {i + 1}/4: loss {means[i]:.4f}" for i in range(4)]
    assert lines[4].startswith("epoch 1/2: loss ")
    assert lines[5].startswith("epoch 2/2, batch 1/4: ")
    loop = loop_of(Progress(each_batch=True))
    Loop(loop.net, loop.loss, loop.optimizer, _Endless(), callbacks=[Progress(each_batch=True)]).run(1)
    assert capsys.readouterr().out.startswith("epoch 1/1, batch 1: loss ")


class _Endless:
    """Batches whose number is not known beforehand."""

    def __iter__(self) -> Any:
        return iter(BATCHES)


def test_functions_and_lists_are_callbacks() -> None:
    stopping = EarlyStopping()
    found = callbacks_of([print, [stopping], None])
    assert [type(one) for one in found] == [EachEpoch, EarlyStopping]
    assert callbacks_of(None) == []
    with pytest.raises(ParameterError, match="a Callback or a function, got int"):
        callbacks_of([3])
