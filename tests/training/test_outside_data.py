"""Data from outside meets a run: classes matched by name, scales, the data's own validation set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import assert_refused, gpucnn, small_splits

from gpucnn import Classifier
from gpucnn.data import ArrayDataset, Splits
from gpucnn.errors import DataError, UsageError
from gpucnn.training import RunFolder, Settings, Trainer

CLASSES = 11  # sorted as text: 0, 1, 10, 2, ...


def page(label: int, i: int) -> np.ndarray:
    """Return a grey image whose bright row says its class."""
    pixels = np.random.default_rng([label, i]).integers(0, 60, (24, 24), np.uint8)
    pixels[2 * label : 2 * label + 2] += 150
    return pixels


@pytest.fixture
def numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images in classes called 0 to 10, and the same images with numbers for labels in an .npz."""
    monkeypatch.chdir(tmp_path)
    for part, count in (("train", 12), ("test", 4)):
        for label in range(CLASSES):
            folder = tmp_path / "rows" / part / str(label)
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(page(label, i + 100 * (part == "test"))).save(folder / f"{i}.png")
    x = {part: np.stack([page(label, i + at) for label in range(CLASSES) for i in range(count)])
         for part, count, at in (("train", 12, 0), ("test", 4, 100))}  # fmt: skip
    y = {part: np.repeat(np.arange(CLASSES), count) for part, count in (("train", 12), ("test", 4))}
    np.savez(
        tmp_path / "rows.npz", x_train=x["train"], y_train=y["train"], x_test=x["test"], y_test=y["test"],
        framing="cropped",
    )  # fmt: skip
    return tmp_path


def train(source: str) -> None:
    result = gpucnn("train", "--data", source, "--device", "cpu", "--epochs", 12, "--batch-size", 16, "--out", "run")
    assert result.code == 0, result.err


def accuracy(*options: Any) -> float:
    result = gpucnn("evaluate", "run", "--json", *options)
    assert result.code == 0, result.err
    return float(json.loads(result.out)["accuracy"])


@pytest.mark.parametrize(("learnt", "other"), [("rows", "rows.npz"), ("rows.npz", "rows")])
def test_classes_are_matched_by_their_names(numbered: Path, learnt: str, other: str) -> None:
    train(learnt)
    own = accuracy()
    assert own > 0.9
    assert accuracy("--data", other) == own


def test_some_of_the_classes_are_matched_too(numbered: Path) -> None:
    train("rows")
    for label in range(CLASSES):
        for part in ("train", "test"):
            if label not in (3, 10):
                (numbered / "rows" / part / str(label)).rename(numbered / f"{part}{label}")
    (numbered / "rows").rename(numbered / "two")
    result = gpucnn("evaluate", "run", "--data", "two", "--json")
    confusion = np.array(json.loads(result.out)["confusion"])
    assert confusion.sum(1).tolist() == [0, 0, 4, 0, 4, 0, 0, 0, 0, 0, 0], (
        "10 is the third class of the run, 3 the fifth"
    )


def test_classes_that_have_only_an_order_are_said(numbered: Path) -> None:
    train("rows.npz")
    with np.load("rows.npz") as arrays:
        np.savez("named.npz", **arrays, class_names=[f"row {i}" for i in range(CLASSES)])
    result = gpucnn("evaluate", "run", "--data", "named.npz")
    assert "Note: classes are matched by their order: 0, 1, 2" in result.err
    assert "row 0, row 1" in result.err


def test_pixels_of_another_scale_are_refused_in_evaluation(numbered: Path) -> None:
    train("rows.npz")
    with np.load("rows.npz") as arrays:
        kept = dict(arrays)
    scaled = {name: array.astype(np.float32) if name.startswith("x") else array for name, array in kept.items()}
    np.savez("floats.npz", **scaled)
    assert_refused(gpucnn("evaluate", "run", "--data", "floats.npz"), 1, "pixels of the training's scale (uint8")
    np.savez("unit.npz", **{name: array / 255 if name.startswith("x") else array for name, array in scaled.items()})
    assert accuracy("--data", "unit.npz") == accuracy()


def test_no_source_is_no_source(numbered: Path) -> None:
    train("rows.npz")
    assert_refused(gpucnn("evaluate", "run", "--data", ""), 1, "got '', which is none of them")
    assert_refused(gpucnn("train", "--data", ""), 1, "got '', which is none of them")
    assert_refused(gpucnn("data", "show", ""), 1, "got '', which is none of them")


def test_a_whole_folder_of_classes_is_measured(numbered: Path) -> None:
    train("rows")
    (numbered / "rows" / "train").rename(numbered / "classes")
    result = gpucnn("evaluate", "run", "--data", "classes", "--json")
    assert np.sum(json.loads(result.out)["confusion"]) == CLASSES * 12
    assert "no test folder: all images are measured" in result.err


# --- the data's own validation set -----------------------------------------------------------------------------------


def with_validation() -> Splits:
    splits, other = small_splits(), small_splits(200, 60)
    return Splits("small", splits.train, splits.test, validation=other.test)


def started(path: Path, **changes: Any) -> Trainer:
    settings = Settings(device="cpu", epochs=1, batch_size=50, data="small", **changes).resolved()
    return Trainer(settings, with_validation(), RunFolder.new(path, "small"))


def test_the_datas_own_validation_set_is_used(tmp_path: Path) -> None:
    trainer = started(tmp_path / "run")
    assert trainer.validation_loader is not None
    assert (len(trainer.train_loader), len(trainer.validation_loader)) == (640, 60)
    assert trainer.settings.validation is None, "so that the run is repeated as it was"
    trainer.train()
    resumed = Trainer(
        Settings(device="cpu", epochs=2, batch_size=50, data="small").resolved(),
        with_validation(),
        RunFolder.open(tmp_path / "run"),
    )
    resumed.resume()
    assert resumed.epoch == 1
    assert len(started(tmp_path / "other", limit=100).train_loader) == 100


def test_another_split_that_is_asked_for_wins_with_a_note(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the data's own validation images are not used"):
        trainer = started(tmp_path / "a", validation=140)
    assert trainer.validation_loader is not None
    assert (len(trainer.train_loader), len(trainer.validation_loader)) == (500, 140)
    assert started(tmp_path / "b", validation=0).validation_loader is None


def test_a_validation_set_that_does_not_fit() -> None:
    splits = small_splits()
    with pytest.raises(DataError, match="validation images: expected the training images' shape"):
        Splits("x", splits.train, splits.test, validation=ArrayDataset(np.zeros((2, 5, 5), np.uint8), [0, 1]))


# --- settings and labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "kept"), [("20x32", "20x32"), ("28x28", 28), (28, 28), ("28", 28), (None, None)])
def test_image_sizes_in_settings(given: Any, kept: Any) -> None:
    assert Settings(image_size=given).resolved().image_size == kept


@pytest.mark.parametrize("given", ["20x", "big", 0, -2, True])
def test_image_sizes_that_are_none(given: Any) -> None:
    with pytest.raises(UsageError, match="settings: image_size: expected pixels of a side, or HxW"):
        Settings(image_size=given).resolved()


def test_a_path_that_is_not_utf8_is_refused_before_it_is_written() -> None:
    with pytest.raises(UsageError, match="settings: data: expected a name in UTF-8"):
        Settings(data="caf\udce9").resolved()


def test_image_size_on_the_command_line(numbered: Path) -> None:
    assert_refused(gpucnn("train", "--data", "rows", "--image-size", "20x"), 2, "HxW such as 20x32, got '20x'")
    result = gpucnn("data", "show", "rows", "--image-size", "20x24")
    assert "image    1 x 20 x 24 (channels, rows, columns)" in result.out


def test_labels_of_another_kind_in_score_are_refused() -> None:
    x, y = small_splits(100, 20).train[np.arange(100)]
    classifier = Classifier(epochs=1, device="cpu").fit(x, y)
    for labels in (y.astype(str), [f"{label}" for label in y], y.astype(bytes), [None] * 100):
        with pytest.raises(
            DataError, match=r"Classifier\.score: y: expected labels of the kind of fit's \(int64\), got"
        ):
            classifier.score(x, labels)
    assert classifier.score(x, y.astype(np.float32)) == classifier.score(x, y)
    named = Classifier(epochs=1, device="cpu").fit(x, y.astype(str))
    with pytest.raises(DataError, match=r"fit's \(<U21\), got int64"):
        named.score(x, y)
    assert named.score(x, y.astype(object).astype(str)) == named.score(x, y.astype(str))
