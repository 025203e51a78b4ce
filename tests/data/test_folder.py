"""A folder of class folders: what is read, how it is made of one size, what is passed over, what is refused."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpucnn.data import ArrayDataset, Splits, load, load_pictures
from gpucnn.errors import DataError


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are decoded anew each time, as where no cache can be written."""
    monkeypatch.setenv("GPUCNN_CACHE", f"{os.devnull}/cache")


def write(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def colour(*rgb: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.broadcast_to(np.uint8(rgb), (*size, 3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 8x8 colour images, each of one shade that says which it is."""
    home = tmp_path / "pets"
    for part, count in (("train", 5), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                write(home / part / name / f"{i}.png", colour(100 * label, 10 * i, 200 if part == "test" else 7))
    return home


def notes(path: Path, **options: Any) -> tuple[Splits, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = load_pictures(path, **options)
    return splits, [str(message.message) for message in caught]


def arrays(data: Any) -> tuple[np.ndarray, np.ndarray]:
    assert isinstance(data, ArrayDataset)
    return data.images, data.labels


def test_train_and_test(folder: Path) -> None:
    splits, messages = notes(folder)
    assert messages == []
    assert (splits.name, splits.framing) == ("pets", "cropped")
    assert splits.train.class_names == splits.test.class_names == ["cat", "dog"]
    images, labels = arrays(splits.train)
    assert (images.shape, images.dtype) == ((10, 3, 8, 8), np.uint8)
    assert labels.tolist() == [0] * 5 + [1] * 5
    assert images[7, :, 3, 3].tolist() == [100, 20, 7]
    images, labels = arrays(splits.test)
    assert labels.tolist() == [0, 0, 1, 1]
    assert images[3, :, 0, 0].tolist() == [100, 10, 200]


def test_load_finds_out_what_the_folder_holds(folder: Path) -> None:
    assert load(str(folder)).train.class_names == ["cat", "dog"]
    with pytest.warns(UserWarning, match="14 images resized to 4x4 pixels$"):
        assert load(str(folder), image_size=4).train.image_shape == (3, 4, 4)


def test_a_part_is_held_out_where_there_is_no_test_folder(folder: Path) -> None:
    home = folder / "train"
    splits, messages = notes(home)
    assert messages == ["no test folder: 2 images are held out for testing, a fifth of each class"]
    assert splits.name == "train"
    whole = {(x.tobytes(), int(y)) for x, y in zip(*arrays(load_quietly(folder).train), strict=True)}
    parts = [
        {(x.tobytes(), int(y)) for x, y in zip(*arrays(part), strict=True)} for part in (splits.train, splits.test)
    ]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == whole
    assert sorted(arrays(splits.test)[1].tolist()) == [0, 1]
    again, _ = notes(home)
    assert again.sha256() == splits.sha256()


def load_quietly(folder: Path) -> Splits:
    return notes(folder)[0]


def test_pictures_that_are_added_do_not_move_most_of_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(40):
            write(tmp_path / name / f"{i}.png", colour(i, ord(name), 0))
    before = {x.tobytes() for x in arrays(load_quietly(tmp_path).test)[0]}
    for i in range(40, 45):
        write(tmp_path / "a" / f"{i}.png", colour(i, ord("a"), 0))
    after = {x.tobytes() for x in arrays(load_quietly(tmp_path).test)[0]}
    assert len(before - after) <= 2
    (tmp_path / "copy").mkdir()
    os.rename(tmp_path / "a", tmp_path / "copy" / "a")
    os.rename(tmp_path / "b", tmp_path / "copy" / "b")
    assert {x.tobytes() for x in arrays(load_quietly(tmp_path / "copy").test)[0]} == after, "wherever the folder lies"


def test_train_folder_alone_and_a_class_called_train(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "test").rglob("*.png"):
        path.unlink()
    for name in ("cat", "dog"):
        (folder / "test" / name).rmdir()
    (folder / "test").rmdir()
    assert len(load_quietly(folder).test) == 2
    for name in ("train", "car"):
        for i in range(3):
            write(tmp_path / "vehicles" / name / f"{i}.png", colour(i, 0, 0))
    assert load_quietly(tmp_path / "vehicles").train.class_names == ["car", "train"]


def test_different_sizes_are_made_one_and_said_once(tmp_path: Path) -> None:
    left = np.zeros((10, 30, 3), np.uint8)
    left[:, :10], left[:, 10:20], left[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for name in ("a", "b"):
        write(tmp_path / name / "1.png", left)
        write(tmp_path / name / "2.png", colour(9, 9, 200, size=(10, 10)))
        write(tmp_path / name / "3.png", colour(9, 9, 200, size=(70, 70)))
    splits, messages = notes(tmp_path)
    assert splits.train.image_shape == (3, 10, 10), "the median of the shorter sides"
    assert messages[0] == "4 images resized to 10x10 pixels (2 are not square: their middle is taken)"
    wide = [x for part in (splits.train, splits.test) for x in arrays(part)[0] if x[1].max() > 200]
    assert len(wide) == 2
    assert all((x[1] == 255).all() and not x[0].any() and not x[2].any() for x in wide), "the green middle"


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for i in range(2):
            write(tmp_path / name / f"{i}.png", colour(0, 0, 90, size=(300, 200)))
    splits, messages = notes(tmp_path)
    assert splits.train.image_shape == (3, 64, 64)
    assert messages[0].startswith("4 images resized to 64x64 pixels (4 are not square")
    assert notes(tmp_path, image_size=96)[0].train.image_shape == (3, 96, 96)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "LA", "RGBA", "I;16"])
def test_grey_pictures_have_one_channel_however_they_are_stored(tmp_path: Path, mode: str) -> None:
    page = np.zeros((9, 9), np.uint8)
    page[:, 4] = 255
    for name in ("a", "b"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            if mode == "I;16":
                Image.fromarray(page.astype(np.uint16) * 257).save(tmp_path / name / f"{i}.png")
            else:
                Image.fromarray(page).convert(mode).save(tmp_path / name / f"{i}.png")
    images, _ = arrays(load_quietly(tmp_path).train)
    assert images.shape[1:] == (1, 9, 9)
    assert (images == page).all()


def test_one_coloured_picture_makes_all_of_them_colour(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        write(path, colour(50, 50, 50))
    assert load_quietly(folder).train.image_shape == (1, 8, 8)
    write(folder / "test" / "dog" / "1.png", colour(50, 50, 60))
    assert load_quietly(folder).train.image_shape == (3, 8, 8)


def test_for_a_network_pictures_are_read_as_it_reads_them(folder: Path) -> None:
    assert load_pictures(folder, like=(1, 5, 5)).train.image_shape == (1, 5, 5)
    assert load_pictures(folder, like=(3, 6, 6)).train.image_shape == (3, 6, 6)
    page = np.full((40, 40), 255, np.uint8)
    page[3:9, 5:8] = 0
    for path in folder.rglob("*.png"):
        write(path, page)
    images, _ = arrays(load_pictures(folder, like=(1, 28, 28), framing="centred").train)
    rows, columns = np.nonzero(images[0, 0] > 128)
    assert (int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) == (20, 10), "light on dark, 20 pixels high, in the middle"


def test_jpeg_and_capital_suffixes(folder: Path) -> None:
    for name, suffix in (("cat", "JPG"), ("dog", "jpeg")):
        Image.fromarray(colour(200, 30, 30)).save(folder / "train" / name / f"photo.{suffix}", "JPEG")
    assert len(load_quietly(folder).train) == 12


def test_what_is_no_picture_is_passed_over_and_counted(folder: Path, tmp_path: Path) -> None:
    cat = folder / "train" / "cat"
    (cat / "notes.txt").write_text("hello")
    (cat / ".hidden.png").write_bytes(b"")
    (cat / "deeper").mkdir()
    (folder / "train" / "README").write_text("hello")
    (folder / "train" / ".git").mkdir()
    write(tmp_path / "outside.png", colour(1, 2, 3))
    (cat / "link.png").symlink_to(tmp_path / "outside.png")
    (cat / "broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(cat / "pipe.png")
    splits, messages = notes(folder)
    assert len(splits.train) == 11, "a link is followed"
    assert len(messages) == 1
    words = "ignored: 2 hidden, 1 beside the class folders, 1 links that lead nowhere, 2 no images"
    assert sorted(messages[0].removeprefix("ignored: ").split(", ")) == sorted(
        words.removeprefix("ignored: ").split(", ")
    )


def refused(folder: Path, *words: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        load_pictures(folder, **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_empty_classes(folder: Path) -> None:
    (folder / "train" / "bird").mkdir()
    (folder / "test" / "bird").mkdir()
    refused(folder, "train class bird: expected an image, got none")
    write(folder / "train" / "bird" / "1.png", colour(1, 2, 3))
    refused(folder, "test class bird: expected an image, got none")


def test_classes_that_differ(folder: Path) -> None:
    write(folder / "test" / "bird" / "1.png", colour(1, 2, 3))
    write(folder / "train" / "cow" / "1.png", colour(1, 2, 3))
    refused(folder, "the same in train and test, got bird, cow in one of them only")


def test_a_single_class_or_picture(tmp_path: Path) -> None:
    write(tmp_path / "one" / "cat" / "1.png", colour(1, 2, 3))
    refused(tmp_path / "one", "at least two images")
    write(tmp_path / "one" / "cat" / "2.png", colour(1, 2, 3))
    refused(tmp_path / "one", "class folders: expected at least two, got only 'cat'")
    write(tmp_path / "one" / "dog" / "2.png", colour(1, 2, 3))
    refused(tmp_path / "one", "class dog: expected at least two images", "Add a test folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "at least two, got none")


def test_a_picture_that_cannot_be_read_is_named(folder: Path) -> None:
    bad = folder / "train" / "dog" / "bad.png"
    bad.write_bytes(b"GIF89a no image")
    refused(folder, str(bad), "is no readable image")


def test_a_picture_of_too_many_pixels_or_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpucnn.limits.PICTURE_PIXELS", 63)
    refused(folder, "0.png: expected at most 63 pixels, got 64", "--no-limits")
    monkeypatch.setattr("gpucnn.limits.PICTURE_BYTES", 20)
    refused(folder, "0.png: expected at most 20 bytes")
    assert len(load(str(folder), limits=False).train) == 10


def test_more_than_the_memory_holds_is_refused_before_it_is_read(folder: Path) -> None:
    refused(folder, "pets: expected at most 17,179,869,184 bytes of pixels, got", image_size=100_000)


def test_image_size_of_what_is_no_folder_of_pictures(tmp_path: Path) -> None:
    for source in ("digits", "mnist", "mine.npz"):
        with pytest.raises(DataError, match="image_size: expected a folder of images"):
            load(source, image_size=32)
