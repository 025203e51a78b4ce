"""What a stranger's structure may cost is known before it is paid."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import checkpoint_of, trainer

import gpucnn
from gpucnn import limits, models, nn
from gpucnn.checkpoint import packed
from gpucnn.errors import CheckpointError, ParameterError
from gpucnn.models import cost
from gpucnn.models.cost import bounded, output_size
from gpucnn.models.saved import KEY
from gpucnn.training import RunFolder, SavedModel


@pytest.mark.parametrize(
    "structure",
    [
        {"layer": "Linear", "arguments": {"in_features": 30000, "out_features": 8000}},
        {"layer": "Conv2d", "arguments": {"in_channels": 4096, "out_channels": 4096, "kernel_size": 3}},
        {"layer": "Linear", "arguments": {"in_features": None, "out_features": 10}},
    ],
)
def test_no_more_weights_are_made_than_a_file_holds(tmp_path: Path, structure: dict[str, Any]) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(packed({"weight": np.zeros(3, np.float32)}, {KEY: json.dumps(structure)}))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"parameters in all|in_channels that are known"):
            models.load(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_honest_files_load_whatever_their_layers(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.LayerNorm((4, 900, 900), elementwise_affine=False), nn.Flatten(),
    )  # fmt: skip
    models.save(net, tmp_path / "net.safetensors")
    assert str(models.load(tmp_path / "net.safetensors")) == str(net)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 5, 3, padding=2), nn.Conv2d(3, 5, (3, 2), stride=2, padding="same"), nn.Conv2d(3, 5, 3, padding="full"),
        nn.Conv2d(3, 5, 3, padding=(1, 2, 3, 4), dilation=2), nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1),
        nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, stride=1, padding=1), nn.AdaptiveAvgPool2d((20, None)),
        nn.AdaptiveMaxPool2d(30), nn.LPPool2d(2, 2), nn.GlobalAvgPool2d(), nn.ReLU(), nn.Linear(11, 100), nn.Flatten(),
    ],
)  # fmt: skip
def test_the_size_is_never_underestimated(layer: nn.Module) -> None:
    x = gpucnn.tensor(np.zeros((2, 3, 9, 11), np.float32))
    assert output_size(layer, x.shape) >= layer(x).size


@pytest.mark.parametrize(
    ("net", "what"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(30000)), "numbers in its output"),
        (nn.Sequential(nn.Conv2d(1, 1, 1, padding=20000)), "numbers in its output"),
        (nn.Sequential(*[nn.AdaptiveAvgPool2d(8 - i % 2) for i in range(30)]), "numbers in all outputs"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(5), nn.Conv2d(1, 4, 5, padding="same")), "multiply-adds"),
    ],
)
def test_activations_and_work_are_bounded(monkeypatch: pytest.MonkeyPatch, net: nn.Module, what: str) -> None:
    monkeypatch.setattr(cost, "ALL_ACTIVATIONS", 1500)
    monkeypatch.setattr(cost, "MULTIPLY_ADDS", 2000)
    if what == "numbers in its output":
        monkeypatch.undo()
    x = gpucnn.tensor(np.zeros((1, 1, 2, 2), np.float32))
    with bounded(net), gpucnn.no_grad(), pytest.raises(ParameterError, match=f"{what}.*--no-limits"):
        net(x)
    if what != "numbers in its output":
        with bounded(net), limits.applied(False), gpucnn.no_grad():
            net(x)
    assert not any(layer.has_hooks() for layer in net.modules())


@pytest.mark.parametrize("task", [{"image_shape": [1, 16384, 16384]}, {"mean": [float("inf")]}])
def test_a_state_that_asks_for_too_much(tmp_path: Path, task: dict[str, Any]) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    path = checkpoint_of(tmp_path / "run") / "state.json"
    state = json.loads(path.read_text())
    del state["sha256"]["state.json"]
    state["task"] |= task
    path.write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"lacks what a network needs"):
        SavedModel.load(RunFolder.open(tmp_path / "run"), "cpu")


def test_bounds_of_a_saved_run_are_lifted_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(tmp_path / "run", epochs=1).train()
    monkeypatch.setattr("gpucnn.training.saved.LARGEST_IMAGE", 100)
    folder = RunFolder.open(tmp_path / "run")
    with pytest.raises(CheckpointError, match="--no-limits"):
        SavedModel.load(folder, "cpu")
    assert SavedModel.load(folder, "cpu", limits=False).image_shape == (1, 28, 28)
