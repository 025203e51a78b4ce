"""Data sets by index, their checks, and how `load` finds them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import write_idx_folder, write_npz

from gpucnn.data import ArrayDataset, Dataset, Splits, load
from gpucnn.errors import DataError


def numbered(count: int, classes: int = 3) -> ArrayDataset:
    images = np.zeros((count, 1, 4, 4), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return ArrayDataset(images, np.arange(count) % classes)


def test_subset_keeps_the_order_asked_for() -> None:
    class Plain(Dataset):  # without ArrayDataset's own, faster subset
        class_names = ("a", "b", "c")  # type: ignore[assignment]

        def __len__(self) -> int:
            return 20

        def __getitem__(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
            return numbered(20)[indices]

    for whole in (numbered(20), Plain()):
        chosen = whole.subset(np.array([7, 3, 3, 19])).subset(np.array([3, 0, 1]))
        images, labels = chosen[np.arange(3)]
        assert images[:, 0, 0, 0].tolist() == [19, 7, 3]
        assert labels.tolist() == [1, 1, 0]
        assert len(chosen) == 3
        assert chosen.classes == 3
        assert chosen.image_shape == (1, 4, 4)


def test_arrays_are_not_copied_and_not_changed() -> None:
    images = np.arange(2 * 16, dtype=np.uint8).reshape(2, 1, 4, 4)
    data = ArrayDataset(images, [0, 1])
    assert np.shares_memory(data.images, images)
    batch, _ = data[np.array([0])]
    batch[...] = 0
    assert images[0].any()


def test_lists_are_data_too() -> None:
    data = ArrayDataset([[[0.0, 1.0], [0.5, 0.25]]], [0], ["square"])
    assert data.image_shape == (1, 2, 2)
    assert data.images.dtype == np.float32


def test_most_classes_can_be_named() -> None:
    labels = np.array([0, 2**16])
    with pytest.raises(DataError, match="0 to 65535"):
        ArrayDataset(np.zeros((2, 4, 4), np.uint8), labels)
    names = [str(i) for i in range(2**16 + 1)]
    assert ArrayDataset(np.zeros((2, 4, 4), np.uint8), labels, names).classes == 2**16 + 1


def test_splits_must_be_of_the_same_task() -> None:
    with pytest.raises(DataError, match="training set: expected at least one image"):
        Splits("x", numbered(20).subset(np.arange(0)), numbered(2))
    with pytest.raises(DataError, match="the 2 classes of the training set, got 3 classes"):
        Splits("x", numbered(20, 2), numbered(20, 3))


def test_sha256_is_that_of_images_and_labels() -> None:
    train, test = numbered(5), numbered(3)
    expected = hashlib.sha256()
    for data in (train, test):
        expected.update(data.images.tobytes() + data.labels.tobytes())
    assert Splits("x", train, test).sha256() == expected.hexdigest()
    changed = numbered(3)
    changed.images[2, 0, 3, 3] ^= 1
    assert Splits("x", train, changed).sha256() != expected.hexdigest()


def test_sha256_is_not_made_up_for_data_that_is_not_in_memory() -> None:
    class Elsewhere(Dataset):
        class_names = ("0", "1", "2")  # type: ignore[assignment]

        def __len__(self) -> int:
            return 3

        def __getitem__(self, indices: Any) -> tuple[np.ndarray, np.ndarray]:
            return numbered(3)[indices]

    assert Splits("x", Elsewhere(), numbered(3)).sha256() is None


def test_load_by_name_path_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUCNN_DATA", raising=False)
    with pytest.raises(DataError, match="set GPUCNN_DATA"):
        load("mnist")
    (tmp_path / "home").mkdir()
    write_idx_folder(tmp_path / "home" / "mnist", ".gz")
    monkeypatch.setenv("GPUCNN_DATA", str(tmp_path / "home"))
    assert len(load("mnist").train) == 7
    assert len(load(str(tmp_path / "home" / "mnist")).train) == 7
    with pytest.raises(DataError, match="kmnist"):
        load("kmnist")
    write_npz(tmp_path / "a.npz", 20, 10)
    assert len(load("a.npz").test) == 10


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("mnits", "Did you mean mnist?"),
        ("digit", "Did you mean digits?"),
        ("nowhere/at/all", "Check the path."),
        ("a" * 5000, "Check the path."),
        ("nowhere.npz", "no such file"),
        ("", "a folder, an .npz, or a .csv, got ''"),
        ("~nosuchuser/pictures", "no such user"),
        (".", "folders of images, got none of them"),
    ],
)
def test_load_of_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load(source)
    assert said in str(caught.value)


def test_digits_are_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.data.DIGITS_TRAIN", 50)
    monkeypatch.setattr("gpucnn.data.DIGITS_TEST", 30)
    splits = load("digits")
    assert (len(splits.train), len(splits.test)) == (50, 30)
    assert splits.train.class_names == [str(i) for i in range(10)]
    assert not np.array_equal(splits.train[np.arange(30)][0], splits.test[np.arange(30)][0])


@pytest.mark.parametrize("names", [10, "abc", 2.5])
def test_class_names_that_are_no_list(names: Any) -> None:
    with pytest.raises(DataError, match="class_names: expected a list of names"):
        ArrayDataset(np.zeros((2, 3, 3), np.uint8), [0, 1], names)
