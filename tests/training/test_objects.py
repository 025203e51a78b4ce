"""A run folder for a network, a loss, an optimiser and data sets of one's own."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from own_objects import Doubled, Rings
from runs import Raises, assert_refused, gpucnn, small_settings, weights

import gpucnn as package
import gpucnn.functional as F
from gpucnn import nn, optim
from gpucnn.cli.run_report import ReportWriter
from gpucnn.data import Splits
from gpucnn.errors import ParameterError, UsageError
from gpucnn.training import InterruptedTraining, RunFolder, Trainer


class Net(nn.Module):
    """A network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.twice, self.drop, self.head = nn.Conv2d(1, 4, 3), Doubled(), nn.Dropout(0.2), nn.Linear(196, 2)

    def forward(self, x: package.Tensor) -> package.Tensor:
        return self.head(self.drop(F.relu(self.twice(self.conv(x)))).flatten(1))


def squared(output: package.Tensor, target: package.Tensor) -> package.Tensor:
    """A loss."""
    one_hot = (target.unsqueeze(1) == package.arange(2).unsqueeze(0)).float()
    return ((F.softmax(output, dim=1) - one_hot) ** 2).sum(dim=1).mean()


class Heavy(optim.Optimizer):
    """An optimiser with a state: descent with momentum."""

    @package.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state["speed"] = p.grad if "speed" not in state else 0.9 * state["speed"] + p.grad
                p -= group["lr"] * state["speed"]


def make(path: Path, reporter: Any = None, **changes: Any) -> Trainer:
    package.manual_seed(3)
    net = Net()
    folder = RunFolder.open(path) if path.exists() else RunFolder.new(path, "rings")
    settings = small_settings(batch_size=10, schedule="one-cycle", validation=20, epochs=3, **changes)
    return Trainer(
        settings, Splits("rings", Rings(120, 0), Rings(40, 1000)), folder, reporter,
        net=net, loss=squared, optimizer=Heavy(net.named_parameters(), {"lr": 0.05}),
    )  # fmt: skip


def test_they_train_resume_to_the_same_bits_and_are_tested(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", ReportWriter(quiet=True))
    assert whole.train()["test_accuracy"] > 0.95
    assert (tmp_path / "whole" / "report.html").stat().st_size > 10_000
    with pytest.raises(InterruptedTraining):
        make(tmp_path / "cut", Raises(14, signal.SIGINT)).train()
    again = make(tmp_path / "cut")
    again.resume()
    assert again.step == 14
    assert again.train() == whole.tested
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    settings = (tmp_path / "whole" / "config.toml").read_text()
    for line in ('model = "Net (object)"', 'loss = "squared (object)"', 'optimizer = "Heavy (object)"', "lr = 0.05"):
        assert line in settings


def test_the_command_line_says_where_they_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "run").train()
    for command in (["train", "--resume", "run"], ["train", "--config", "run/config.toml"]):
        assert_refused(gpucnn(*command), 2, "objects in Python")
    assert_refused(gpucnn("evaluate", "run", "--data", "digits"), 1, "Net")


def test_a_network_of_known_layers_is_evaluated_from_its_folder(tmp_path: Path) -> None:
    from runs import small_splits

    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    settings = small_settings(epochs=1)
    trainer = Trainer(settings, small_splits(), RunFolder.new(tmp_path / "run", "mine"), net=net)
    accuracy = trainer.train()["test_accuracy"]
    from gpucnn.training import SavedModel, evaluate

    saved = SavedModel.load(RunFolder.open(tmp_path / "run"), "cpu")
    assert evaluate(saved.net, saved.feed(small_splits().test)).accuracy == accuracy


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    net, other = Net(), Net()
    splits = Splits("rings", Rings(40, 0), Rings(10, 99))

    def refused(match: str, kind: type[Exception] = ParameterError, changes: Any = None, **objects: Any) -> None:
        folder = RunFolder.new(tmp_path / "run", "rings")
        with pytest.raises(kind, match=match):
            Trainer(small_settings(validation=0, **(changes or {})), splits, folder, **objects)
        assert not (tmp_path / "run").exists()

    refused("net: expected an object of Module, got str", net="lenet")
    refused("loss: expected a function", net=net, loss=3)
    refused("optimizer: expected the network whose parameters it has", optimizer=Heavy(net.parameters(), {"lr": 1.0}))
    refused("optimizer: expected one of the network's", net=net, optimizer=Heavy(other.parameters(), {"lr": 1.0}))
    refused("label_smoothing: expected none beside", changes={"label_smoothing": 0.1}, net=net, loss=squared)
    refused(
        "outputs: expected one for each of 2 classes", UsageError, net=nn.Sequential(nn.Flatten(), nn.Linear(81, 3))
    )
