"""Runs in TF32 and in float16: what they compute in, what they keep, and how they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import numbers, resumed, small_splits, trainer, weights

from gpucnn import Tensor
from gpucnn.backend import Backend
from gpucnn.data import load
from gpucnn.errors import UsageError
from gpucnn.training import RunFolder, SavedModel

SPLITS: dict[str, Any] = {
    "splits": small_splits(14, 4), "epochs": 1, "batch_size": 7, "validation": 0,
    "model": "simple_convnet:filter_num=2,stride=3,hidden=8,init_std=0.2",
}  # fmt: skip
ON_DEVICES = ["cuda-standin", pytest.param("cuda", marks=pytest.mark.cuda)]
on_devices = pytest.mark.parametrize("backend", ON_DEVICES, indirect=True)


def without_the_first_end(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of a run that was finished after one epoch and then continued, less what the test set gave first."""
    ends = [line for line in lines if "checkpoint" in line]
    assert [line["epoch"] for line in ends] == [1, 2]
    return [line for line in lines if line is not ends[0]]


@on_devices
def test_a_run_multiplies_in_tf32_and_stores_float32(backend: Backend, tmp_path: Path) -> None:
    seen: list[bool] = []
    for precision in ("float32", "tf32"):
        run = trainer(tmp_path / precision, device=backend.name, precision=precision, **SPLITS)
        run.net.register_forward_hook(lambda module, inputs, output: seen.append(backend.in_tf32))
        run.train()
    assert seen == [False] * (len(seen) // 2) + [True] * (len(seen) // 2)
    assert not backend.in_tf32
    assert weights(tmp_path / "tf32") != weights(tmp_path / "float32")
    kept = RunFolder.open(tmp_path / "tf32").load()
    assert {array.dtype for array in kept.model.values()} == {np.dtype("float32")}
    assert 'precision = "tf32"' in (tmp_path / "tf32" / "config.toml").read_text()


@on_devices
def test_a_run_goes_on_in_tf32(backend: Backend, tmp_path: Path) -> None:
    settings = {**SPLITS, "device": backend.name, "precision": "tf32", "schedule": "constant"}
    trainer(tmp_path / "whole", **{**settings, "epochs": 2}).train()
    trainer(tmp_path / "parts", **settings).train()
    with pytest.raises(UsageError, match="resume: precision: expected tf32, as in the run so far, got float32"):
        resumed(tmp_path / "parts", **{**settings, "epochs": 2, "precision": "float32"})
    resumed(tmp_path / "parts", **{**settings, "epochs": 2}).train()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert without_the_first_end(numbers(tmp_path / "parts")) == numbers(tmp_path / "whole")


@pytest.mark.bits
@on_devices
def test_a_network_answers_as_it_was_trained_where_the_device_can(backend: Backend, tmp_path: Path) -> None:
    trainer(tmp_path / "run", device=backend.name, precision="tf32", **SPLITS).train()
    answers = {}
    for device in (backend.name, "cpu"):
        saved = SavedModel.load(RunFolder.open(tmp_path / "run"), device)
        assert saved.precision == "tf32"
        x, _ = saved.feed(SPLITS["splits"].test).batch(np.arange(4))
        with saved.as_trained():
            assert saved.backend.in_tf32 == (device != "cpu")
            answers[device] = saved.net(x).numpy()
        again: Tensor = saved.net(x)
        assert np.array_equal(again.numpy(), answers[device]) == (device == "cpu")
    np.testing.assert_allclose(answers[backend.name], answers["cpu"], atol=0.02)


def test_a_device_without_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"precision tf32: device: expected a CUDA device .* got cpu") as caught:
        trainer(tmp_path / "run", precision="tf32")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()


# --- float16 -------------------------------------------------------------------------------------------------------------


def test_a_run_in_float16_keeps_what_it_needs_to_go_on(backend: Backend, tmp_path: Path) -> None:
    settings = {**SPLITS, "device": backend.name, "precision": "float16", "schedule": "constant"}
    whole = trainer(tmp_path / "whole", **{**settings, "epochs": 2})
    whole.train()
    assert whole.loss_scale is not None
    trainer(tmp_path / "parts", **settings).train()
    continued = resumed(tmp_path / "parts", **{**settings, "epochs": 2})
    assert continued.loss_scale is not None
    continued.train()
    assert continued.loss_scale.state() == whole.loss_scale.state()
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert without_the_first_end(numbers(tmp_path / "parts")) == numbers(tmp_path / "whole")
    kept = RunFolder.open(tmp_path / "whole").load()
    assert {array.dtype for array in kept.model.values()} == {np.dtype("float16")}
    assert {array.dtype for name, array in kept.optimizer.items() if name.startswith("master.")} == {
        np.dtype("float32")
    }
    saved = SavedModel.load(RunFolder.open(tmp_path / "whole"), "cpu")
    x, _ = saved.feed(SPLITS["splits"].test).batch(np.arange(4))
    assert (saved.precision, x.dtype, saved.net(x).dtype) == ("float16", "float16", "float16")


@on_devices
def test_a_run_in_float16_is_replayed(backend: Backend, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", device=backend.name, precision="float16", **{**SPLITS, "epochs": 2})
    run.train()
    assert any(one is not None for one in run.do_step._variants.values())


@pytest.mark.slow
def test_float16_learns_as_float32_does(tmp_path: Path, mnist: Path) -> None:
    splits, accuracies = load("mnist"), {}
    for precision in ("float32", "float16"):
        run = trainer(
            tmp_path / precision,
            splits=splits,
            precision=precision,
            limit=10_000,
            epochs=2,
            batch_size=64,
            validation=0,
        )
        accuracies[precision] = run.train()["test_accuracy"]
    assert accuracies["float32"] > 0.96
    assert accuracies["float16"] > accuracies["float32"] - 0.005
