"""Folders as people have them: other names of the parts, folders in folders, links, names that are not text."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import gpucnn, write_idx_folder

from gpucnn.data import Splits, load, load_pictures, load_test, parse_image_size
from gpucnn.data.folder import pictures_below
from gpucnn.errors import DataError


def fill(
    folder: Path, classes: str = "ab", count: int = 2, suffix: str = ".png", size: tuple[int, int] = (8, 8)
) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.full((*size, 3), (20 * number, 10 * i, hash_of(folder.name)), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}{suffix}")
    return folder


def hash_of(name: str) -> int:
    return sum(name.encode()) % 256


def said(folder: Path, **options: Any) -> tuple[Splits, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = load_pictures(folder, **options)
    return splits, [str(message.message) for message in caught]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val", "VALIDATION"])
def test_a_validation_folder(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "train", count=3)
    fill(tmp_path / "test", count=2)
    fill(tmp_path / name, count=1)
    splits, notes = said(tmp_path)
    assert splits.validation is not None
    assert notes == ["2 images beside the train folder are for validation"]
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [6, 2, 4]
    assert splits.validation[np.arange(1)][0][0, 2, 0, 0] == hash_of(name)
    lines = gpucnn("data", "show", tmp_path).out.splitlines()
    assert lines[0].endswith(": 6 training, 2 validation and 4 test images")
    assert [line.split() for line in lines[3:]] == [["class", "train", "val", "test"], ["a", *"312"], ["b", *"312"]]
    (tmp_path / name / "c").mkdir()
    with pytest.raises(DataError, match="the same in train and validation, got c in one of them only"):
        load_pictures(tmp_path)


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing"), ("Training", "Testing")]
)
def test_other_names_of_the_parts(tmp_path: Path, names: tuple[str, str]) -> None:
    fill(tmp_path / names[0], count=3)
    fill(tmp_path / names[1], count=1)
    splits, notes = said(tmp_path)
    assert notes == []
    assert (len(splits.train), len(splits.test)) == (6, 2)


def test_two_folders_for_one_part(tmp_path: Path) -> None:
    for name in ("train", "val", "valid"):
        fill(tmp_path / name)
    with pytest.raises(DataError, match="expected one validation folder, got val and valid"):
        load_pictures(tmp_path)


def test_test_alone_is_to_be_measured_and_not_to_be_trained_on(tmp_path: Path) -> None:
    fill(tmp_path / "test", count=3)
    name, data = load_test(str(tmp_path), (3, 8, 8))
    assert (name, len(data)) == (tmp_path.name, 6)
    with pytest.raises(DataError, match="expected train, to be trained on, got test"):
        load_pictures(tmp_path)


def test_test_beside_the_classes_of_training(tmp_path: Path) -> None:
    fill(tmp_path, count=4)
    fill(tmp_path / "test", count=1)
    splits, _ = said(tmp_path)
    assert splits.train.class_names == ["a", "b"]
    assert (len(splits.train), len(splits.test)) == (8, 2)


def test_evaluation_takes_all_of_a_folder_of_classes(tmp_path: Path) -> None:
    fill(tmp_path, count=10)
    with pytest.warns(UserWarning, match="no test folder: all images are measured"):
        _, data = load_test(str(tmp_path), (3, 8, 8))
    assert len(data) == 20
    _, held_out = load_test(str(tmp_path), (3, 8, 8), trained_on=str(tmp_path))
    assert len(held_out) == 4
    assert np.array_equal(held_out[np.arange(4)][0], said(tmp_path)[0].test[np.arange(4)][0])
    (tmp_path / "a" / "9.png").rename(tmp_path / "only.png")
    with pytest.warns(UserWarning, match="ignored: 1 beside the class folders"):
        load_test(str(tmp_path), (3, 8, 8), trained_on=str(tmp_path))


def test_what_lies_beside_the_train_folder_is_counted(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test")
    fill(tmp_path / "unlabelled")
    assert said(tmp_path)[1] == ["ignored: 1 beside the train folder"]


def test_pictures_in_folders_within_a_class(tmp_path: Path) -> None:
    fill(tmp_path / "train", count=2)
    (tmp_path / "train" / "a" / "more" / "deep").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 200, 9)).save(tmp_path / "train" / "a" / "more" / "deep" / f"{i}.png")
    fill(tmp_path / "test", count=1)
    splits, notes = said(tmp_path)
    assert notes == []
    assert np.bincount(splits.train[np.arange(7)][1]).tolist() == [5, 2]


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".gif", ".tif", ".tiff", ".jfif", ".ppm", ".PNG", ".JPeG"])
def test_usual_kinds_of_files(tmp_path: Path, suffix: str) -> None:
    fill(tmp_path / "train", suffix=suffix)
    fill(tmp_path / "test", suffix=suffix)
    splits, notes = said(tmp_path)
    assert (notes, len(splits.train)) == ([], 4)


def test_an_archive_with_a_folder_around(tmp_path: Path) -> None:
    fill(tmp_path / "flowers" / "all" / "train", count=3)
    fill(tmp_path / "flowers" / "all" / "test", count=1)
    splits, notes = said(tmp_path)
    assert len(splits.train) == 6
    assert notes == [f"the images lie in {tmp_path / 'flowers' / 'all'}"]


# --- links -----------------------------------------------------------------------------------------------------------


def test_links_are_followed_out_of_the_folder(tmp_path: Path) -> None:
    store = fill(tmp_path / "store", count=5)
    home = tmp_path / "home"
    (home / "train" / "b").mkdir(parents=True)
    (home / "train" / "a").symlink_to(store / "a")
    for i in range(5):
        (home / "train" / "b" / f"{i}.png").symlink_to(store / "b" / f"{i}.png")
    (home / "test").symlink_to(store)
    splits, notes = said(home)
    assert notes == []
    assert (len(splits.train), len(splits.test)) == (10, 10)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    home = fill(tmp_path / "home" / "set", count=3)
    (home / "a" / "self").symlink_to(home / "a")
    (home / "a" / "up").symlink_to(home)
    (home / "b" / "root").symlink_to("/")
    (home / "c").symlink_to(home)
    (home / "d").symlink_to(tmp_path)
    (home / "e").symlink_to(home / "e")
    splits, notes = said(home)
    assert splits.train.class_names == ["a", "b"]
    assert len(splits.train) + len(splits.test) == 6
    assert sorted(notes[-2].removeprefix("ignored: ").split(", ")) == [
        "1 links that lead nowhere",
        "5 links in a circle",
    ]


def test_links_that_double_at_every_level_end(tmp_path: Path) -> None:
    home = fill(tmp_path / "set", count=2)
    for level in range(30):
        (tmp_path / f"level{level}").mkdir()
        for name in "xy":
            (tmp_path / f"level{level}" / name).symlink_to(tmp_path / f"level{level + 1}")
    fill(tmp_path, "p", 1)
    (tmp_path / "p").rename(tmp_path / "level30")
    (home / "a" / "many").symlink_to(tmp_path / "level0")
    splits, _ = said(home)
    assert len(splits.train) + len(splits.test) == 5


def test_deep_folders(tmp_path: Path) -> None:
    here = fill(tmp_path / "set", count=2)
    folders = [here / "a" / "d"]
    while len(folders) < 1200:
        folders.append(folders[-1] / "d")
    for folder in folders:
        folder.mkdir()
    try:
        splits, _ = said(here)
        assert len(splits.train) + len(splits.test) == 4
        assert len(pictures_below(here)) == 4
    finally:
        for folder in reversed(folders):
            folder.rmdir()


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    for number in range(2):
        folder = os.fsencode(tmp_path) + b"/set/caf\xe9" + str(number).encode()
        os.makedirs(folder)
        for i in range(5):
            Image.new("RGB", (8, 8), (i, 90 * number, 0)).save(
                os.fsdecode(folder + b"/\xff" + str(i).encode() + b".png")
            )
    splits, notes = said(tmp_path / "set")
    assert splits.train.class_names == ["caf\\xe90", "caf\\xe91"]
    assert len(splits.test) == 2
    for text in (*splits.train.class_names, *notes):
        text.encode()
    (tmp_path / "set" / os.fsdecode(b"caf\xe90") / os.fsdecode(b"\xffz.png")).write_bytes(b"")
    with pytest.raises(DataError, match="no readable image"):
        load_pictures(tmp_path / "set")


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["20x32", (20, 32), "20X32"])
def test_images_that_are_not_square(tmp_path: Path, size: Any) -> None:
    fill(tmp_path / "train", size=(20, 32))
    fill(tmp_path / "test", size=(40, 64))
    splits, notes = said(tmp_path, image_size=size)
    assert splits.train.image_shape == splits.test.image_shape == (3, 20, 32)
    assert notes == ["4 images resized to 20x32 pixels"]
    fill(tmp_path / "test", size=(40, 40))
    assert said(tmp_path, image_size=size)[1] == [
        "4 images resized to 20x32 pixels (4 are not of the shape 20x32: their middle is taken)"
    ]
    with pytest.warns(UserWarning, match="4 images are not of the shape 20x32: their middle is taken"):
        load_test(str(tmp_path), (3, 20, 32))


@pytest.mark.parametrize(
    "size", ["", "x", "20x", "0x3", "20x32x3", "-3", "a", 0, -1, (0, 2), (1, 2, 3), 2.5, True, "9" * 5000]
)
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(DataError, match="image_size: expected pixels of a side, or HxW such as 20x32"):
        parse_image_size(size)


# --- IDX files as others keep them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", ["raw", "MNIST/raw"])
def test_torchvisions_folders(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner).parent.mkdir(parents=True, exist_ok=True)
    write_idx_folder(tmp_path / inner)
    assert len(load(str(tmp_path)).train) == 7
    if inner != "raw":
        (tmp_path / "KMNIST").mkdir()
        write_idx_folder(tmp_path / "KMNIST" / "raw")
        with pytest.raises(DataError, match="data sets: expected one, got KMNIST/raw, MNIST/raw"):
            load(str(tmp_path))


def test_torchvisions_folder_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUCNN_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FashionMNIST").mkdir()
    write_idx_folder(tmp_path / "FashionMNIST" / "raw")
    splits = load("fashion-mnist")
    assert (splits.name, splits.train.class_names[0], len(splits.train)) == ("fashion-mnist", "T-shirt/top", 7)


def test_emnist_is_put_upright(tmp_path: Path) -> None:
    arrays = write_idx_folder(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / ("emnist-letters-" + file.name.replace("t10k", "test")))
    with pytest.warns(UserWarning, match="EMNIST's images lie on their side"):
        splits = load(str(tmp_path))
    assert splits.name == "emnist-letters"
    images, _ = splits.train[np.arange(7)]
    assert np.array_equal(images[:, 0], arrays["train-images-idx3-ubyte"].swapaxes(1, 2))
    write_idx_folder(tmp_path)
    with pytest.raises(DataError, match="IDX files: expected one data set, got , emnist-letters"):
        load(str(tmp_path))


def test_the_pickled_version_of_cifar10_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match=r"binary files, got the pickled ones.*gpucnn data download cifar10"):
        load(str(tmp_path))
