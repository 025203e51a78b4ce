"""Runs that are stopped, killed and taken up again end with the same bits as those that were not."""

from __future__ import annotations

import json
import math
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Raises, checkpoint_of, numbers, python, resumed, small_splits, trainer, weights

from gpucnn.data import ArrayDataset, Splits
from gpucnn.errors import CheckpointError, UsageError
from gpucnn.training import InterruptedTraining, Reporter, RunFolder, SavedModel
from gpucnn.training.interrupt import StopSignal


class AtEpochEnd(Reporter):
    def epoch(self, trainer: Any, values: dict[str, Any]) -> None:
        if values["epoch"] == 1:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A run of two epochs of 110 steps that nothing interrupts; each logs in its midst."""
    changes = {"epochs": 2, "batch_size": 5, "limit": 600, "validation": 50}
    path = tmp_path_factory.mktemp("whole") / "run"
    trainer(path, **changes).train()
    assert RunFolder.open(path).load().state["step"] == 220
    return changes, path


@pytest.mark.bits
@pytest.mark.parametrize("step", [1, 100, 101, 110, 130, 219])
def test_interrupted_and_resumed_ends_the_same(tmp_path: Path, whole: tuple[dict[str, Any], Path], step: int) -> None:
    changes, path = whole
    with pytest.raises(InterruptedTraining) as caught:
        trainer(tmp_path / "run", Raises(step, signal.SIGINT), **changes).train()
    assert caught.value.exit_code == 130
    assert f"Stopped at step {step} " in str(caught.value)
    assert f"gpucnn train --resume {tmp_path / 'run'}" in str(caught.value)
    continued = resumed(tmp_path / "run", **changes)
    assert continued.step == step
    continued.train()
    assert weights(tmp_path / "run") == weights(path)
    assert numbers(tmp_path / "run") == numbers(path)
    for link in ("last", "best"):
        a, b = (RunFolder.open(p).load(link).state for p in (path, tmp_path / "run"))
        for state in (a, b):
            state.pop("seconds")
        assert a == b


@pytest.mark.bits
def test_interrupted_again_and_again(tmp_path: Path) -> None:
    changes = {"optimizer": "sgd", "epochs": 3}
    trainer(tmp_path / "whole", **changes).train()
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(1, signal.SIGTERM), **changes).train()
    for step in (2, 10, 11, 25):
        with pytest.raises(InterruptedTraining):
            resumed(tmp_path / "run", Raises(step, signal.SIGINT), **changes).train()
    resumed(tmp_path / "run", **changes).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")


@pytest.mark.bits
@pytest.mark.parametrize("step", [3, 10, 14])
def test_augmented_images_are_the_same_after_an_interruption(tmp_path: Path, step: int) -> None:
    changes = {"augment": "shift=2,rotate=10,elastic=1,cutout=5,noise=0.05"}
    trainer(tmp_path / "whole", **changes).train()
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(step, signal.SIGINT), **changes).train()
    resumed(tmp_path / "run", **changes).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    trainer(tmp_path / "plain").train()
    assert weights(tmp_path / "plain") != weights(tmp_path / "whole")
    with pytest.raises(UsageError, match="resume: augment: expected shift=2"):
        resumed(tmp_path / "run", epochs=3)


def test_seconds_go_on_where_they_were(tmp_path: Path) -> None:
    class Slow(Raises):
        def step(self, trainer: Any, images: int) -> None:
            time.sleep(0.01)
            super().step(trainer, images)

    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Slow(8, signal.SIGINT), epochs=1).train()
    again = resumed(tmp_path / "run", epochs=1)
    again.train()
    last = again.history[-1]
    assert last["seconds"] > 0.08, "the seconds before the interruption count"
    assert last["images_per_second"] == pytest.approx(500 / last["seconds"])


def test_terminated(tmp_path: Path) -> None:
    with pytest.raises(InterruptedTraining) as caught:
        trainer(tmp_path / "run", Raises(3, signal.SIGTERM)).train()
    assert caught.value.exit_code == 143


def test_ctrl_c_at_the_end_of_an_epoch_saves_once(tmp_path: Path) -> None:
    with pytest.raises(InterruptedTraining, match="Stopped at step 10 "):
        trainer(tmp_path / "run", AtEpochEnd()).train()
    assert os.readlink(tmp_path / "run" / "checkpoints" / "last") == "step-000010"


def test_ctrl_c_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    assert trainer(tmp_path / "run", Raises(20, signal.SIGINT)).train()["epoch"] == 2


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_second_ctrl_c_leaves_at_once_with_the_last_checkpoint(tmp_path: Path, first: int) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "run", Raises(15, first, signal.SIGINT)).train()
    assert signal.getsignal(signal.SIGINT) is before
    assert RunFolder.open(tmp_path / "run").load().state["step"] == 10
    resumed(tmp_path / "run").train()


def test_handlers_are_given_back(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.bits
def test_trains_outside_the_main_thread_too(tmp_path: Path) -> None:
    import threading

    thread = threading.Thread(target=lambda: trainer(tmp_path / "run").train())
    thread.start()
    thread.join()
    trainer(tmp_path / "other").train()
    assert weights(tmp_path / "run") == weights(tmp_path / "other")


KILLED = """
import os, signal, sys
from pathlib import Path
from runs import Reporter, trainer
class Dies(Reporter):
    def step(self, trainer, images):
        if trainer.step == 17:
            os.kill(os.getpid(), signal.SIGKILL)
trainer(Path(sys.argv[1]), Dies(), epochs=3).train()
"""


@pytest.mark.posix
@pytest.mark.bits
def test_killed_in_mid_epoch_and_resumed_ends_the_same(tmp_path: Path) -> None:
    killed = python("-c", KILLED, tmp_path / "killed")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert RunFolder.open(tmp_path / "killed").load().state["step"] == 10
    resumed(tmp_path / "killed", epochs=3).train()
    trainer(tmp_path / "whole", epochs=3).train()
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


def test_more_epochs_than_planned(tmp_path: Path) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    assert resumed(tmp_path / "run", epochs=3).train()["epoch"] == 3
    with pytest.raises(UsageError, match=r"at least the 3 that are done, got 2.*--epochs"):
        resumed(tmp_path / "run", epochs=2)
    assert "epochs = 3" in (tmp_path / "run" / "config.toml").read_text()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"lr": 0.1}, {"batch_size": 51}, {"optimizer": "sgd"}, {"schedule": "constant"}, {"limit": 639},
        {"validation": 139}, {"model": "lenet:pooling=avg"}, {"precision": "float64"}, {"weight_decay": 0.1},
        {"momentum": 0.5},
    ],
)  # fmt: skip
def test_what_would_make_it_another_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    before = weights(tmp_path / "run"), numbers(tmp_path / "run"), (tmp_path / "run" / "config.toml").read_text()
    with pytest.raises(UsageError, match="resume: ") as caught:
        resumed(tmp_path / "run", epochs=2, **change)
    assert "start a new run" in str(caught.value).lower()
    assert (weights(tmp_path / "run"), numbers(tmp_path / "run")) == before[:2]
    assert (tmp_path / "run" / "config.toml").read_text() == before[2]
    resumed(tmp_path / "run", epochs=2)  # the folder was let go of


def test_other_data_of_the_same_size_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    splits = small_splits()
    assert isinstance(splits.train, ArrayDataset)
    images = splits.train.images.copy()
    images[5, 0, 14, 14] ^= 255
    changed = Splits("small", ArrayDataset(images, splits.train.labels), splits.test)
    with pytest.raises(UsageError, match="is not what the run was trained on"):
        resumed(tmp_path / "run", splits=changed)
    assert resumed(tmp_path / "run", splits=small_splits(), data="moved elsewhere").train()["epoch"] == 2


@pytest.mark.parametrize(("key", "value"), [("blas_threads", 77), ("kernels", "abacus")])
def test_other_kernels_and_threads_of_the_blas_are_noted(tmp_path: Path, key: str, value: Any) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    damage_state(RunFolder.open(tmp_path / "run"), threads=3, **{key: value})  # any number of threads gives these bits
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        resumed(tmp_path / "run")
    assert [str(w.message).startswith(f"resumed with {key} {value} -> ") for w in noted] == [True]


def damage_state(folder: RunFolder, **changes: Any) -> None:
    path = checkpoint_of(folder.path) / "state.json"
    state = json.loads(path.read_text())
    for key, value in changes.items():
        if value is KeyError:
            del state[key]
        else:
            state[key] = value
    del state["sha256"]["state.json"]  # as gpucnn 0.1.0 wrote it: what is damaged is found without it
    path.write_text(json.dumps(state))


@pytest.mark.parametrize(
    "key",
    [
        "epoch",
        "position",
        "batches",
        "totals",
        "seconds",
        "best_accuracy",
        "generator",
        "optimizer",
        "schedule",
        "settings",
    ],
)
@pytest.mark.parametrize("value", [KeyError, "?", [], {"a": 1}])
def test_state_that_lacks_something_is_one_line(tmp_path: Path, key: str, value: Any) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    damage_state(RunFolder.open(tmp_path / "run"), **{key: value})
    with pytest.raises((CheckpointError, UsageError)) as caught:
        resumed(tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keys", [("position",), ("optimizer", "steps"), ("schedule", "steps"), ("totals", "count")])
def test_state_with_infinity_for_a_count_is_one_line(tmp_path: Path, keys: tuple[str, ...]) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    folder = RunFolder.open(tmp_path / "run")
    state = folder.load().state
    inner = state
    for key in keys[:-1]:
        inner = inner[key]
    assert isinstance(inner[keys[-1]], int)
    inner[keys[-1]] = math.inf
    damage_state(folder, **{keys[0]: state[keys[0]]})
    with pytest.raises(CheckpointError) as caught:
        resumed(tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "task",
    [
        KeyError, 5, {}, {"model": "alexnet", "structure": None}, {"model": "../../etc", "structure": None},
        {"model": "lenet:classes=3", "structure": None}, {"structure": 3}, {"structure": {"layer": "os.system"}},
        {"structure": {"layer": "Flatten"}}, {"class_names": 4}, {"class_names": ["a"]},
        {"image_shape": [1, 28]}, {"image_shape": [3, 28, 28]}, {"image_shape": [1, 28, 20]},
        {"image_shape": [1, -3, -3]}, {"image_shape": ["a", "b", "c"]}, {"mean": []}, {"mean": None},
        {"image_shape": [1, math.inf, math.inf]}, {"image_shape": [1, 10**7, 10**7]}, {"std": ["x"]},
        {"precision": "float128"}, {"precision": 3},
    ],
)  # fmt: skip
def test_task_that_describes_no_network_is_one_line(tmp_path: Path, task: Any) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    folder = RunFolder.open(tmp_path / "run")
    whole = folder.load().state["task"]
    damage_state(folder, task={**whole, **task} if isinstance(task, dict) and task else task)
    with pytest.raises(CheckpointError) as caught:
        SavedModel.load(folder, "cpu")
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["shape", "missing", "unknown"])
def test_weights_of_another_network(tmp_path: Path, kind: str) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    folder = RunFolder.open(tmp_path / "run")
    saved = folder.load()
    if kind == "shape":
        saved.model["0.weight"] = np.zeros((6, 1, 3, 3), np.float32)
    elif kind == "missing":
        del saved.model["0.weight"]
    else:
        saved.model["../evil"] = np.zeros(3, np.float32)
    folder.save(11, saved, best=False)
    with pytest.raises(CheckpointError, match=r"evil|0\.weight"):
        SavedModel.load(folder, "cpu", "last")
    with pytest.raises(CheckpointError, match=r"evil|0\.weight"):
        resumed(tmp_path / "run")


def test_no_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected a run with a config\.toml, got none there"):
        RunFolder.open(tmp_path)
