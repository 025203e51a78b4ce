"""A run on a GPU trains by replayed steps, to the same bits as by ordinary ones; a step moves nothing and is one launch."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import numbers, resumed, small_splits, trainer, weights

from gpucnn.backend import Backend
from gpucnn.captured import capture
from gpucnn.data import Dataset, Splits
from gpucnn.errors import DivergedError
from gpucnn.training import InterruptedTraining, Reporter
from gpucnn.training.loader import ReadBatches, ResidentBatches

on_devices = pytest.mark.parametrize(
    "backend", ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)], indirect=True
)
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "validation": 0, "device": "cuda"}
MOST_LAUNCHES = 31  # the loader's cursor moves by one of its own


def splits() -> Splits:
    return small_splits(14, 4)  # three whole batches and a rest


class Read(Dataset):
    """A user's own data set, over one in memory."""

    def __init__(self, data: Dataset) -> None:
        self.data, self.class_names = data, data.class_names

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, indices: Any) -> Any:
        return self.data[indices]


def read_splits() -> Splits:
    return Splits("small", Read(splits().train), Read(splits().test))


def recorded(run: Any) -> list[Any]:
    return list(run.do_step._variants.values())


def uncaptured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.training.loop.capture", lambda step, state: step)


CASES: dict[str, tuple[Any, type, dict[str, Any]]] = {
    "on the device": (splits, ResidentBatches, {}),
    "read": (read_splits, ReadBatches, {}),
    "augmented": (splits, ReadBatches, {"augment": "shift=2,noise=0.05"}),
    "momentum": (splits, ResidentBatches, {"optimizer": "sgd"}),
    "loss": (splits, ResidentBatches, {"loss": "focal", "class_weights": "balanced", "label_smoothing": 0.1}),
    "averaged": (splits, ResidentBatches, {"ema": 0.9}),
    "mixed": (splits, ResidentBatches, {"mixup": 0.4, "cutmix": 1.0}),
    "mixed, read": (read_splits, ReadBatches, {"cutmix": 1.0}),
    "accumulated": (splits, ResidentBatches, {"accumulate": 2}),
    "clipped": (splits, ResidentBatches, {"clip_norm": 0.5}),
    "centred": (splits, ResidentBatches, {"optimizer": "rmsprop:centered=true"}),
}


@pytest.mark.bits
@on_devices
@pytest.mark.parametrize("case", CASES)
def test_a_run_by_replays_is_a_run_by_ordinary_steps(
    backend: Backend, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, kind, changes = CASES[case]
    run = trainer(tmp_path / "replayed", splits=make(), **SETTINGS | changes)
    assert isinstance(getattr(run.batches, "_batches", run.batches), kind)
    run.train()
    assert len(recorded(run)) >= 2  # whole batches, and the rest
    assert all(one is not None for one in recorded(run))
    uncaptured(monkeypatch)
    trainer(tmp_path / "ordinary", splits=make(), **SETTINGS | changes).train()
    assert weights(tmp_path / "replayed") == weights(tmp_path / "ordinary")
    assert numbers(tmp_path / "replayed") == numbers(tmp_path / "ordinary")


@pytest.mark.bits
@on_devices
def test_data_that_is_read_and_copied_trains_to_the_same_bits_as_data_on_the_device(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer(tmp_path / "resident", splits=splits(), **SETTINGS).train()
    monkeypatch.setattr(backend, "fits", lambda size: False)
    run = trainer(tmp_path / "read", splits=splits(), **SETTINGS)
    assert isinstance(run.batches, ReadBatches)
    run.train()
    assert weights(tmp_path / "resident") == weights(tmp_path / "read")
    assert numbers(tmp_path / "resident") == numbers(tmp_path / "read")


def test_a_cursor_that_capture_was_not_told_of_would_be_noticed(
    standin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpucnn.training.loop.capture", lambda step, state: capture(step, state=state[:-1]))
    with (
        pytest.warns(UserWarning, match="its replay differs from the step itself"),
        contextlib.suppress(DivergedError),  # of a cursor that was left beyond the end
    ):
        trainer(tmp_path / "run", splits=splits(), **SETTINGS).train()


class Raises(Reporter):
    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, trainer: Any, images: int) -> None:
        if trainer.step == self.at:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.bits
@on_devices
@pytest.mark.parametrize("make", [splits, read_splits], ids=["on the device", "read"])
@pytest.mark.parametrize("step", [3, 4])
def test_interrupted_and_resumed_ends_with_the_same_bits(
    backend: Backend, step: int, make: Any, tmp_path: Path
) -> None:
    trainer(tmp_path / "whole", splits=make(), **SETTINGS).train()
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(step), make(), **SETTINGS).train()
    resumed(tmp_path / "run", splits=make(), **SETTINGS).train()
    assert weights(tmp_path / "whole") == weights(tmp_path / "run")
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "run")


@on_devices
@pytest.mark.parametrize("captured", [True, False])
def test_a_loss_that_is_not_finite_changes_no_weight_and_ends_the_run(
    backend: Backend, captured: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second epoch on the images are NaN: by then the steps are replays."""

    class Spoils(Reporter):
        before: dict[str, Any]

        def epoch(self, trainer: Any, values: dict[str, Any]) -> None:
            self.before = trainer.net.state_dict()
            trainer.train_loader._scaling[0][...] = float("nan")

    if not captured:
        uncaptured(monkeypatch)
    spoils = Spoils()
    run = trainer(tmp_path / "run", spoils, splits(), **SETTINGS)
    with pytest.raises(DivergedError, match="the loss is nan at or before step 8"):
        run.train()
    assert run.totals.count == 14
    after = run.net.state_dict()
    assert all(np.array_equal(values, after[name]) for name, values in spoils.before.items())


# --- what a step costs ------------------------------------------------------------------------------------------------


class Counts(Reporter):
    """Notes what is launched and moved from each step to the next: by the whole loop, not only by the step."""

    def __init__(self, backend: Any) -> None:
        self.standin = backend.xp.standin
        self.launches: list[Counter[str]] = []
        self.transfers: list[Any] = []
        self._open = contextlib.ExitStack()

    def step(self, trainer: Any, images: int) -> None:
        self._open.close()
        if trainer.position < len(trainer.batches):
            self.launches.append(self._open.enter_context(self.standin.launches.counted()))
            self.transfers.append(self._open.enter_context(self.standin.transfers.counted()))


def counts(backend: Any, path: Path, make: Any, batch_size: int = 4) -> tuple[Any, Counts]:
    """Train two epochs; the counts that are kept are those of the second, between its steps."""
    reporter = Counts(backend)
    run = trainer(path, reporter, make(), **SETTINGS | {"batch_size": batch_size})
    run.train()
    half = len(reporter.launches) // 2
    reporter.launches, reporter.transfers = reporter.launches[half:], reporter.transfers[half:]
    return run, reporter


def test_a_step_is_one_launch_of_a_graph_and_the_rate(standin: Any, tmp_path: Path) -> None:
    run, seen = counts(standin, tmp_path / "run", splits)
    assert len(seen.launches) == 3
    assert seen.launches == [{"set_numbers": 1, "graph": 1}] * 3
    assert all(moved.total == moved.copies == 0 for moved in seen.transfers)
    for one in recorded(run):
        assert 0 < len(one._graph._graph) <= MOST_LAUNCHES, "with the gather and the totals"


def test_a_step_that_is_not_recorded_is_few_launches_and_moves_nothing(
    standin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncaptured(monkeypatch)
    _, seen = counts(standin, tmp_path / "run", splits)
    assert len(seen.launches) == 3
    for launched, moved in zip(seen.launches, seen.transfers, strict=True):
        assert launched["gather_next"] == launched["update_metrics"] == launched["adam"] == 1
        assert sum(launched.values()) <= MOST_LAUNCHES, launched
        assert moved.total == 0


def test_a_step_on_data_that_is_read_copies_it_and_waits_for_nothing_but_an_older_copy(
    standin: Any, tmp_path: Path
) -> None:
    _, seen = counts(standin, tmp_path / "run", read_splits)
    assert len(seen.launches) == 3
    for launched, moved in zip(seen.launches, seen.transfers, strict=True):
        assert launched == {
            "setitem": 2,
            "set_numbers": 1,
            "graph": 1,
        }  # images and labels, to where the graph reads them
        assert (moved.copies, moved.to_device, moved.to_host, moved.waits) == (2, 0, 0, 1)


def test_the_trainer_notices_a_missing_wait(standin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from standin.order import Race

    monkeypatch.setattr(type(standin.xp.cuda.get_current_stream()), "wait_event", lambda self, event: None)
    with pytest.raises(Race):
        trainer(tmp_path / "run", splits=read_splits(), **SETTINGS).train()
