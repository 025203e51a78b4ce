"""The average of the weights, and early stopping in a run: as in PyTorch, resumed to the same bits, and what is tested."""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Raises, numbers, resumed, trainer, weights, write_npz
from runs import gpucnn as command

import gpucnn
from gpucnn import Classifier, nn, optim
from gpucnn import functional as F
from gpucnn.errors import ParameterError, UsageError
from gpucnn.training import (
    EMA,
    Accuracy,
    Callback,
    Checkpoints,
    EarlyStopping,
    InterruptedTraining,
    Loop,
    RunFolder,
    SavedModel,
    Settings,
    evaluate,
)  # fmt: skip

RNG = np.random.default_rng(0)
BATCHES = [(RNG.normal(size=(5, 4)).astype(np.float32), RNG.integers(0, 3, 5)) for _ in range(4)]


def network(seed: int = 0) -> nn.Module:
    gpucnn.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def loop(ema: float | None, *callbacks: Callback) -> Loop:
    net = network()
    optimizer = optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    return Loop(net, nn.CrossEntropyLoss(), optimizer, BATCHES, [Accuracy()], callbacks, validation=BATCHES, ema=ema)


def test_it_is_the_average_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    averaging = torch.optim.swa_utils
    ours, theirs = nn.Linear(3, 2), torch.nn.Linear(3, 2)
    mine = EMA(ours, 0.9)
    their = averaging.AveragedModel(theirs, multi_avg_fn=averaging.get_ema_multi_avg_fn(0.9))
    for _ in range(5):
        state = {"weight": RNG.normal(size=(2, 3)).astype(np.float32), "bias": RNG.normal(size=2).astype(np.float32)}
        ours.load_state_dict(state)
        theirs.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
        mine.update()
        their.update_parameters(theirs)
    with mine.applied():
        for name, array in ours.state_dict().items():
            np.testing.assert_allclose(array, their.module.state_dict()[name].numpy(), rtol=1e-5, atol=1e-6)
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, state[name])


def test_validation_is_of_the_average_and_training_goes_on_without_it() -> None:
    plain, averaged = loop(None), loop(0.8)
    for one in (plain, averaged):
        one.run(3)
    assert [v["loss"] for v in plain.history] == [v["loss"] for v in averaged.history]
    assert [v["val_loss"] for v in plain.history] != [v["val_loss"] for v in averaged.history]
    for name, array in plain.net.state_dict().items():
        np.testing.assert_array_equal(array, averaged.net.state_dict()[name])
    with averaged.averaged():
        averaged.net.eval()
        each = [F.cross_entropy(averaged.net(gpucnn.tensor(x)), gpucnn.tensor(y)).item() for x, y in BATCHES]
    mean = sum(each) / 4
    assert averaged.history[-1]["val_loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.bits
def test_a_loop_with_checkpoints_goes_on_with_the_same_average(tmp_path: Path) -> None:
    whole = loop(0.8)
    whole.run(4)
    loop(0.8, Checkpoints(tmp_path)).run(2)
    again = loop(0.8, Checkpoints(tmp_path, resume=True))
    again.run(4)
    for one in (whole, again):
        assert one.average is not None
    for a, b in zip(whole.average.state_dict().values(), again.average.state_dict().values(), strict=True):  # type: ignore[union-attr]
        np.testing.assert_array_equal(a, b)
    for name, array in whole.net.state_dict().items():
        np.testing.assert_array_equal(array, again.net.state_dict()[name])


@pytest.mark.bits
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("step", [1, 13])
def test_a_run_is_resumed_to_the_same_bits(tmp_path: Path, step: int, precision: str) -> None:
    changes = {"ema": 0.9, "precision": precision}
    trainer(tmp_path / "whole", **changes).train()
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(step, signal.SIGINT), **changes).train()
    resumed(tmp_path / "run", **changes).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    with pytest.raises(UsageError, match=r"resume: ema: expected 0\.9"):
        resumed(tmp_path / "run", epochs=3, precision=precision)


def test_what_is_saved_and_tested_is_the_average(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", ema=0.9, validation=0)
    tested = run.train()
    saved = SavedModel.load(RunFolder.open(tmp_path / "run"), device="cpu")
    result = evaluate(saved.net, saved.feed(run.splits.test))
    assert (result.loss, result.accuracy) == (tested["test_loss"], tested["test_accuracy"])
    live = run.net.state_dict()
    assert not np.array_equal(live["0.weight"], saved.net.state_dict()["0.weight"])


class Never(EarlyStopping):
    """Finds every epoch worse than the first."""

    def epoch(self, loop: Any, values: dict[str, Any]) -> object:
        return super().epoch(loop, {**values, "val_accuracy": 1.0 / values["epoch"]})


@pytest.mark.bits
def test_a_run_stops_early_and_resumed_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.training.trainer.EarlyStopping", Never)
    changes = {"epochs": 9, "early_stopping": 2, "schedule": "constant"}
    run = trainer(tmp_path / "whole", **changes)
    tested = run.train()
    assert run.epoch == 3
    with pytest.raises(InterruptedTraining):
        trainer(tmp_path / "run", Raises(25, signal.SIGINT), **changes).train()
    assert resumed(tmp_path / "run", **changes).train() == tested
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    again = resumed(tmp_path / "run", **changes)
    assert again.train() == tested
    assert again.epoch == 3
    more = resumed(tmp_path / "run", **changes | {"early_stopping": 4})
    more.train()
    assert more.epoch == 5


def test_the_command_line_says_why_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.training.trainer.EarlyStopping", Never)
    data = write_npz(tmp_path / "d.npz", 100, 30)
    done = command(
        "train", "--data", data, "--epochs", 5, "--early-stopping", 1, "--device", "cpu", "--out", tmp_path / "run"
    )
    assert done.code == 0, done.err
    assert "early_stopping = 1" in (tmp_path / "run" / "config.toml").read_text()
    assert "stopped early" in (tmp_path / "run" / "report.html").read_text()


def test_a_classifier_has_the_average_of_the_best_epoch() -> None:
    x, y = RNG.integers(0, 256, (60, 6, 6), np.uint8), RNG.integers(0, 2, 60)
    seen: list[Any] = []

    class Keeps(Callback):
        def epoch(self, loop: Any, values: dict[str, Any]) -> object:
            seen.append((values["val_loss"], copy.deepcopy(loop.net.state_dict())))
            return None

    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    classifier = Classifier(net, epochs=8, device="cpu", ema=0.5, early_stopping=2, validation=20, batch_size=8)
    classifier.fit(x, y, callback=Keeps())
    best = min(seen, key=lambda one: one[0])[1]
    for name, array in classifier.net_.state_dict().items():
        np.testing.assert_array_equal(array, best[name])


@pytest.mark.parametrize("change", [{"ema": 1.5}, {"early_stopping": 0}, {"early_stopping": 1, "validation": 0}])
def test_what_makes_no_sense_is_wrong_usage(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"settings: {next(iter(change))}"):
        Settings(**change).resolved()
    with pytest.raises(ParameterError, match="EMA: decay"):
        EMA(network(), -1.0)
