"""A run: what is trained on what, what is written down, and when it stops."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import drawn, numbers, small_splits, trainer, weights

from gpucnn.data import ArrayDataset, Dataset, Splits
from gpucnn.errors import DataError, DivergedError, UsageError
from gpucnn.training import RunFolder, SavedModel, evaluate
from gpucnn.training.factory import split_validation

EPOCH_KEYS = [
    "epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "seconds",
    "images_per_second",
    "lr",
]  # fmt: skip


def test_it_learns_and_writes_down_what_it_did(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", epochs=6, splits=small_splits(2000, 300), validation=200)
    last = run.train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "train_loss" in line]
    assert run.history == epochs
    assert last == lines[-1]
    best = max(epochs, key=lambda line: line["val_accuracy"])
    assert (last["checkpoint"], last["epoch"], last["step"]) == ("best", best["epoch"], best["step"])
    assert all(line["test_loss"] is line["test_accuracy"] is None for line in epochs), "once, at the end"
    assert [list(line) for line in epochs] == [EPOCH_KEYS] * 6
    assert [line["epoch"] for line in epochs] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in epochs] == [36, 72, 108, 144, 180, 216]
    assert all(0 <= line[key] <= 1 for line in epochs for key in ("train_accuracy", "val_accuracy"))
    assert epochs[-1]["train_loss"] < 0.6 < 1 < epochs[0]["train_loss"]
    assert last["test_accuracy"] > 0.75
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["data"] == {"name": "small", "sha256": run.splits.sha256()}
    assert environment["versions"]["numpy"] == np.__version__
    assert not list((tmp_path / "run").rglob(".*")), "something half-written was left"


def test_the_loss_is_logged_within_epochs(tmp_path: Path) -> None:
    trainer(tmp_path / "run", epochs=1, batch_size=2, limit=420, validation=0).train()
    logged = [line for line in numbers(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in logged] == [42, 84, 126, 168]
    assert all(math.isfinite(line["loss"]) and line["lr"] > 0 and line["epoch"] == 1 for line in logged)
    assert all(0 <= line["running_accuracy"] <= 1 < line["running_loss"] for line in logged)


def test_saved_network_answers_as_the_trained_one(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run")
    last = run.train()
    saved = SavedModel.load(RunFolder.open(tmp_path / "run"), "cpu")
    result = evaluate(saved.net, saved.feed(run.splits.test))
    assert (result.loss, result.accuracy) == (last["test_loss"], last["test_accuracy"])
    assert not saved.net.training


@pytest.mark.bits
def test_same_seed_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        trainer(tmp_path / name, seed=seed).train()
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert numbers(tmp_path / "a") == numbers(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


def test_one_cycle_is_the_default_and_constant_is_constant(tmp_path: Path) -> None:
    from gpucnn.training import Reporter

    class Rates(Reporter):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def step(self, trainer: Any, images: int) -> None:
            self.seen.append(trainer.optimizer.param_groups[0]["lr"])

    one_cycle, constant = Rates(), Rates()
    trainer(tmp_path / "a", one_cycle).train()
    trainer(tmp_path / "b", constant, schedule="constant").train()
    assert set(constant.seen) == {0.005}
    assert max(one_cycle.seen) == pytest.approx(0.005)
    peak = one_cycle.seen.index(max(one_cycle.seen))
    assert 3 <= peak <= 6, "the highest rate comes at 30 % of 20 steps"
    assert one_cycle.seen[-1] < 1e-6


@pytest.mark.parametrize(
    ("changes", "steps"), [({}, 10), ({"batch_size": 64}, 8), ({"batch_size": 499}, 2), ({"batch_size": 10**9}, 1)]
)
def test_short_last_batch_is_kept(tmp_path: Path, changes: dict[str, Any], steps: int) -> None:
    run = trainer(tmp_path / "run", epochs=1, **changes)
    sizes: list[int] = []
    run.reporter.step = lambda _, images: sizes.append(images)  # type: ignore[method-assign]
    assert run.train()["step"] == steps == len(sizes)
    assert sum(sizes) == 500


def marked(count: int) -> ArrayDataset:
    """Return images whose first pixel says which one they are."""
    images, labels = drawn(640, 0)
    images = images[:count].copy()
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
    return ArrayDataset(images, labels[:count])


def marks(data: Dataset | None) -> list[int]:
    assert data is not None
    images, _ = data[np.arange(len(data))]
    return (images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1].astype(int)).tolist()


def test_validation_is_held_out_of_the_training_images_alone() -> None:
    train, validation = split_validation(marked(600), limit=None, validation=100, seed=0)
    assert sorted(marks(train) + marks(validation)) == list(range(600))
    assert len(validation or []) == 100
    assert marks(validation) != sorted(marks(validation)), "taken after a shuffle"
    again, _ = split_validation(marked(600), limit=None, validation=100, seed=0)
    assert marks(again) == marks(train)
    other, _ = split_validation(marked(600), limit=None, validation=100, seed=1)
    assert marks(other) != marks(train)


def test_limit_is_of_what_is_shuffled_and_validation_comes_out_of_it() -> None:
    train, validation = split_validation(marked(600), limit=50, validation=20, seed=0)
    assert (len(train), len(validation or [])) == (30, 20)
    assert max(marks(train)) > 100, "not simply the first ones"
    everything, nothing = split_validation(marked(600), limit=10**6, validation=0, seed=0)
    assert (len(everything), nothing) == (600, None)


@pytest.mark.parametrize(("count", "held_out"), [(4, 0), (600, 120), (24_000, 4800), (60_000, 5000)])
def test_validation_by_default(count: int, held_out: int) -> None:
    images = np.zeros((count, 1, 1, 1), np.uint8)
    train, validation = split_validation(ArrayDataset(images, np.zeros(count, int)), None, None, 0)
    assert (len(train), len(validation or [])) == (count - held_out, held_out)


def test_validation_as_a_share(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", validation=None, val_split=0.25, limit=400)
    assert (len(run.train_loader), run.settings.validation, run.settings.val_split) == (300, 100, None)


@pytest.mark.parametrize(("limit", "validation"), [(None, 600), (None, 10**9), (50, 50)])
def test_validation_that_leaves_nothing_to_train_on(limit: int | None, validation: int) -> None:
    with pytest.raises(DataError, match="Pass a smaller --validation"):
        split_validation(marked(600), limit, validation, 0)


def test_best_is_judged_by_validation_and_never_by_the_test_set(tmp_path: Path) -> None:
    class Guarded(ArrayDataset):
        reads = 0

        def __getitem__(self, indices: Any) -> Any:
            self.reads += 1
            return super().__getitem__(indices)

    for name, shuffle in (("right", False), ("wrong", True)):
        images, labels = drawn(200, 1)
        labels = np.random.default_rng(0).permutation(labels) if shuffle else labels
        splits = Splits("small", small_splits().train, Guarded(images, labels))
        run = trainer(tmp_path / name, splits=splits, epochs=4)
        run.train()
        history = run.history
        best = max(range(4), key=lambda i: history[i]["val_accuracy"])
        assert RunFolder.open(tmp_path / name).load("best").state["step"] == 10 * (best + 1)
    assert weights(tmp_path / "right") == weights(tmp_path / "wrong"), "the test set's labels change nothing"


def test_without_validation(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", validation=0)
    last = run.train()
    assert (last["checkpoint"], last["epoch"]) == ("last", len(run.history))
    assert run.history[-1]["val_loss"] is run.history[-1]["val_accuracy"] is None
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()
    assert last["step"] == 26
    with pytest.raises(UsageError, match="target_accuracy: expected a validation split"):
        trainer(tmp_path / "b", limit=4, validation=None, target_accuracy=0.5)


class Squares(Dataset):
    """A user's own data set: a bright square left or right, drawn when asked for."""

    class_names = ("left", "right")  # type: ignore[assignment]

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
        indices = np.asarray(indices)
        images = np.zeros((len(indices), 3, 20, 20), np.float32)
        labels = indices % 2
        for image, index, label in zip(images, indices, labels, strict=True):
            top, left = index % 11, 10 * label + index % 3
            image[:, top : top + 6, left : left + 6] = 1
        return images, labels


def test_own_data_set_is_trained_on(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", splits=Splits("squares", Squares(300), Squares(80)), validation=50, epochs=3)
    assert run.train()["test_accuracy"] == 1
    saved = SavedModel.load(RunFolder.open(tmp_path / "run"), "cpu")
    assert (saved.class_names, saved.image_shape, saved.pixels) == (["left", "right"], (3, 20, 20), "float32")
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["data"]["sha256"] is None


def test_one_class_only(tmp_path: Path) -> None:
    images, _ = drawn(640, 0)
    data = ArrayDataset(images[:60], np.zeros(60, int))
    run = trainer(tmp_path / "run", splits=Splits("one", data, data), validation=10)
    assert (run.train()["test_accuracy"], run.history[-1]["train_loss"]) == (1, 0)


def test_images_that_are_not_square(tmp_path: Path) -> None:
    images, labels = drawn(640, 0)
    data = ArrayDataset(np.repeat(images[:60], 2, 2), labels[:60])
    run = trainer(tmp_path / "run", splits=Splits("tall", data, data), validation=10, epochs=1)
    tested = run.train()
    saved = SavedModel.load(RunFolder.open(tmp_path / "run"), "cpu")
    assert saved.image_shape == (1, 56, 28)
    assert evaluate(saved.net, saved.feed(data)).accuracy == tested["test_accuracy"]


@pytest.mark.parametrize("model", ["lenet:classes=3", "lenet:classes=12", "lenet:in_channels=3", "lenet:image_size=14"])
def test_model_that_does_not_fit_the_data_is_wrong_usage(tmp_path: Path, model: str) -> None:
    with pytest.raises(UsageError, match=f"model {model}: "):
        trainer(tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


def test_images_too_small_for_the_model(tmp_path: Path) -> None:
    data = ArrayDataset(np.zeros((20, 6, 6), np.uint8), np.arange(20) % 2)
    with pytest.raises(UsageError, match="model lenet: "):
        trainer(tmp_path / "run", splits=Splits("dots", data, data), validation=2)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_stops_the_run_and_saves_nothing_of_it(tmp_path: Path, optimizer: str) -> None:
    run = trainer(tmp_path / "run", lr=1e30, optimizer=optimizer, schedule="constant")
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at or before step \d+.*smaller --lr") as caught:
        run.train()
    assert caught.value.exit_code == 3
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (tmp_path / "run" / "metrics.jsonl").exists() is False


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_keeps_the_checkpoints_before(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", epochs=3, schedule="constant")
    epoch = run.reporter.epoch

    def blow_up(_: Any, values: dict[str, Any]) -> None:
        epoch(run, values)
        run.optimizer.param_groups[0]["lr"] = 1e30

    run.reporter.epoch = blow_up  # type: ignore[method-assign]
    with pytest.raises(DivergedError):
        run.train()
    saved = RunFolder.open(tmp_path / "run").load()
    assert saved.state["step"] == 10
    assert all(np.isfinite(array).all() for array in saved.model.values())


def test_weights_that_blow_up_in_the_last_step_are_not_saved(tmp_path: Path) -> None:
    """The training loss was finite throughout; it is the validation that shows it."""
    run = trainer(tmp_path / "run", epochs=1)
    step = run.reporter.step

    def spoil(*arguments: Any) -> None:
        step(*arguments)
        if run.position == len(run.batches):
            run.net.load_state_dict({k: v * np.float32("inf") for k, v in run.net.state_dict().items()})

    run.reporter.step = spoil  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DivergedError):
            run.train()
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.bits
def test_config_repeats_the_run(tmp_path: Path) -> None:
    from gpucnn.training import Settings, Trainer, read_toml

    trainer(tmp_path / "a", validation=None, seed=4, limit=300, optimizer="sgd").train()
    settings = Settings(**read_toml(tmp_path / "a" / "config.toml")).resolved()
    assert settings.validation == 60
    Trainer(settings, small_splits(), RunFolder.new(tmp_path / "b", "")).train()
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert (tmp_path / "a" / "config.toml").read_text() == (tmp_path / "b" / "config.toml").read_text()


def test_float64(tmp_path: Path) -> None:
    trainer(tmp_path / "run", precision="float64", epochs=1).train()
    assert {array.dtype for array in RunFolder.open(tmp_path / "run").load().model.values()} == {np.dtype("float64")}
    assert SavedModel.load(RunFolder.open(tmp_path / "run"), "cpu").precision == "float64"


@pytest.mark.slow
def test_mnist_in_five_epochs(tmp_path: Path, mnist: Path) -> None:
    from runs import gpucnn

    result = gpucnn("train", "--data", mnist, "--device", "cpu", "--epochs", 5, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out.splitlines()[-1])["test_accuracy"] >= 0.989


@pytest.mark.slow
def test_drawn_digits_teach_to_read_mnist(tmp_path: Path, mnist: Path) -> None:
    from runs import gpucnn

    result = gpucnn("train", "--device", "cpu", "--epochs", 5, "--out", tmp_path / "run")
    assert result.code == 0, result.err
    answer = gpucnn("evaluate", tmp_path / "run", "--data", mnist, "--device", "cpu", "--json")
    assert json.loads(answer.out)["accuracy"] >= 0.95


def test_a_part_of_mnist(tmp_path: Path, mnist: Path) -> None:
    from runs import gpucnn

    result = gpucnn(
        "train", "--data", mnist, "--device", "cpu", "--limit", 3000, "--epochs", 3, "--out", tmp_path / "run", "--json"
    )
    assert result.code == 0, result.err
    *epochs, last = map(json.loads, result.out.splitlines())
    assert last["test_accuracy"] > 0.9
    assert abs(last["test_accuracy"] - epochs[last["epoch"] - 1]["val_accuracy"]) < 0.06
