"""Data sets from arrays as they lie about: their names, one-hot labels, channels last, pixels of other scales."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpucnn.data import ArrayDataset, Splits, load, load_npz, load_test
from gpucnn.data.arrays import channels_first, role_of
from gpucnn.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 6, 6), np.uint8)
LABELS = np.arange(12) % 3


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def quietly(path: Path) -> Splits:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(str(path))


def labels_of(data: Any) -> list[int]:
    return [int(label) for label in data[np.arange(len(data))][1]]


NAMES = [
    ("x_train", "y_train", "x_test", "y_test"),
    ("X_train", "Y_train", "X_test", "Y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),  # MedMNIST
    ("training_images", "training_labels", "testing_images", "testing_labels"),  # EMNIST
    ("train_x", "train_y", "test_x", "test_y"),
    ("images_train", "targets_train", "images_test", "targets_test"),
]


@pytest.mark.parametrize("names", NAMES, ids=[names[0] for names in NAMES])
def test_usual_names_of_arrays(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays = dict(zip(names, (IMAGES[:8], LABELS[:8], IMAGES[8:], LABELS[8:]), strict=True))
    splits = load_npz(save(tmp_path / "a.npz", **arrays))
    assert np.array_equal(splits.train[np.arange(8)][0][:, 0], IMAGES[:8])
    assert labels_of(splits.test) == LABELS[8:].tolist()
    assert splits.validation is None


def test_medmnist_with_its_validation_set(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8)
    arrays = {}
    for part, chosen in (("train", slice(0, 6)), ("val", slice(6, 9)), ("test", slice(9, 12))):
        arrays |= {f"{part}_images": images[chosen], f"{part}_labels": LABELS[chosen, None]}
    with pytest.warns(UserWarning, match=r"taken as \(N, H, W, C\)"):
        splits = load_npz(save(tmp_path / "blood.npz", **arrays))
    assert splits.validation is not None
    assert np.array_equal(splits.validation[np.arange(3)][0], images[6:9].transpose(0, 3, 1, 2))
    assert labels_of(splits.validation) == LABELS[6:9].tolist()
    assert splits.train.image_shape == (3, 8, 8)


@pytest.mark.parametrize("name", ["x_mean", "weights", "arr_0", "train", "a_b_c", "train_images_mean", ""])
def test_names_that_say_nothing(name: str) -> None:
    assert role_of(name) is None


def test_two_arrays_for_one_role(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", x_train=IMAGES, images_train=IMAGES, y_train=LABELS)
    with pytest.raises(DataError, match="train images: expected one array, got images_train and x_train"):
        load_npz(path)


def test_images_without_labels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected x_train, y_train, x_test, y_test"):
        load_npz(save(tmp_path / "a.npz", x_train=IMAGES, y_train=LABELS, x_test=IMAGES))


def test_without_test_images_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    images, labels = RNG.integers(0, 256, (60, 6, 6), np.uint8), np.arange(60) % 3
    path = save(tmp_path / "a.npz", x=images, y=labels)
    with pytest.warns(UserWarning, match="no test images: 12 are held out for testing, a fifth of each class"):
        splits = load_npz(path)
    assert np.bincount(labels_of(splits.test)).tolist() == [4, 4, 4]
    assert len(splits.train) == 48
    assert quietly(path).sha256() == splits.sha256()
    order = RNG.permutation(60)
    again = quietly(save(tmp_path / "b.npz", x=images[order], y=labels[order]))
    assert {x.tobytes() for x in again.test[np.arange(12)][0]} == {x.tobytes() for x in splits.test[np.arange(12)][0]}


def test_evaluation_takes_all_unless_it_was_trained_on(tmp_path: Path) -> None:
    path = str(save(tmp_path / "a.npz", x=np.repeat(IMAGES, 5, 0), y=np.repeat(LABELS, 5)))
    with pytest.warns(UserWarning, match="no test images: all are measured"):
        name, data = load_test(path, (1, 6, 6))
    assert (name, len(data)) == ("a", 60)
    with pytest.warns(UserWarning, match="held out"):
        _, data = load_test(path, (1, 6, 6), trained_on=path)
    assert len(data) == 12


def test_one_hot_labels(tmp_path: Path) -> None:
    for kind in (np.uint8, np.float32, bool):
        hot = np.eye(3, dtype=kind)[LABELS]
        splits = load_npz(save(tmp_path / "a.npz", x_train=IMAGES, y_train=hot, x_test=IMAGES[:4], y_test=hot[:4]))
        assert labels_of(splits.train) == LABELS.tolist()
        assert splits.train.class_names == ["0", "1", "2"]
    data = ArrayDataset(IMAGES[:2], np.eye(4)[[0, 1]])
    assert data.classes == 4, "also those without an image"
    assert ArrayDataset(IMAGES[:2], [True, False]).classes == 2


def test_labels_of_text(tmp_path: Path) -> None:
    words = np.array(["dog", "cat", "eel"])[LABELS]
    splits = load_npz(save(tmp_path / "a.npz", x_train=IMAGES, y_train=words, x_test=IMAGES[:2], y_test=words[:2]))
    assert splits.train.class_names == splits.test.class_names == ["cat", "dog", "eel"]
    assert labels_of(splits.test) == [1, 0]
    save(tmp_path / "b.npz", x_train=IMAGES, y_train=words, x_test=IMAGES[:1], y_test=np.array(["cow"]))
    with pytest.raises(DataError, match=r"labels: expected some of cat, dog, eel, got \['cow'\]"):
        load_npz(tmp_path / "b.npz")


# --- channels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (5, 1, 8, 9), (5, 4, 8, 8), (5, 3, 2, 8), (5, 1, 9, 4), (5, 2, 3, 5)])
def test_channels_first_stay(shape: tuple[int, ...]) -> None:
    assert channels_first(np.zeros(shape), "x").shape == shape


@pytest.mark.parametrize("shape", [(5, 8, 8, 3), (5, 8, 9, 1), (5, 8, 9, 4), (5, 2, 8, 3), (5, 20, 32, 3)])
def test_channels_last_are_moved_and_said(shape: tuple[int, ...]) -> None:
    images = np.arange(np.prod(shape)).reshape(shape)
    with pytest.warns(UserWarning, match=rf"\(N, H, W, C\), with {shape[3]} channels"):
        moved = channels_first(images, "x")
    assert np.array_equal(moved, images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(5, 8, 8, 8), (5, 3, 8, 3), (5, 1, 8, 3), (5, 1, 8, 1), (5, 8, 2, 8), (5, 4, 8, 4)])
def test_a_layout_that_is_not_plain_is_asked_for(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"one of \(N, C, H, W\) and \(N, H, W, C\), got shape .* array layout"):
        channels_first(np.zeros(shape), "x")
    arrays = {
        "x_train": np.ones(shape),
        "y_train": [0, 1, 0, 1, 0],
        "x_test": np.ones(shape),
        "y_test": [0, 1, 0, 1, 0],
    }
    shapes = []
    for layout in ("NCHW", "NHWC"):
        shapes.append(load_npz(save(tmp_path / "a.npz", **arrays, layout=layout)).train.image_shape)
    assert shapes == [shape[1:], (shape[3], *shape[1:3])]
    with pytest.raises(DataError, match="layout: expected NCHW or NHWC, got 'CHWN'"):
        load_npz(save(tmp_path / "a.npz", **arrays, layout="CHWN"))


# --- scales --------------------------------------------------------------------------------------------------------


def splits_of(train: Any, test: Any) -> Splits:
    labels = np.arange(len(train)) % 2
    return Splits("x", ArrayDataset(train, labels), ArrayDataset(test, labels))


FLOATS = IMAGES.astype(np.float32)
SCALES = {
    "0-255 floats for uint8": (IMAGES, FLOATS),
    "uint8 for 0-255 floats": (FLOATS, IMAGES),
    "0-255 for 0-1": (FLOATS / 255, FLOATS),
    "0-1 for 0-255": (FLOATS, FLOATS / 255),
    "uint8 0-1 for uint8": (IMAGES, IMAGES // 128),
    "-1 to 1 for uint8": (IMAGES, FLOATS / 127.5 - 1),
    "uint8 for -1 to 1": (FLOATS / 127.5 - 1, IMAGES),
}


@pytest.mark.parametrize("name", SCALES)
def test_pixels_of_another_scale_are_refused(name: str) -> None:
    with pytest.raises(
        DataError, match=r"data set x: (test|training) images: expected the .* images' scale .*Save all"
    ):
        splits_of(*SCALES[name])


def test_pixels_of_one_scale_are_not() -> None:
    for train, test in ((IMAGES, FLOATS / 255), (FLOATS / 255, IMAGES), (FLOATS, FLOATS / 3), (IMAGES, IMAGES * 0)):
        splits_of(train, test)


# --- files of one array each ---------------------------------------------------------------------------------------


def test_pairs_of_npy_files(tmp_path: Path) -> None:
    for name, array in (("x_train", IMAGES), ("y_train", LABELS), ("x_test", IMAGES[:4]), ("y_test", LABELS[:4])):
        np.save(tmp_path / f"{name}.npy", array)
    splits = load(str(tmp_path))
    assert (len(splits.train), len(splits.test), splits.train.image_shape) == (12, 4, (1, 6, 6))
    with pytest.raises(DataError, match=r"one array.*Name the folder with x_train\.npy"):
        load(str(tmp_path / "x_train.npy"))
    (tmp_path / "y_test.npy").unlink()
    with pytest.raises(DataError, match="expected x_train, y_train"):
        load(str(tmp_path))


def test_a_pair_alone_and_files_with_the_name_of_the_set(tmp_path: Path) -> None:
    (tmp_path / "signs").mkdir()
    np.save(tmp_path / "signs" / "X.npy", np.repeat(FLOATS / 255, 2, 0))
    np.save(tmp_path / "signs" / "Y.npy", np.eye(3)[np.repeat(LABELS, 2)])
    assert len(quietly(tmp_path / "signs").train) == 18
    (tmp_path / "k").mkdir()
    for part in ("train", "test"):
        np.savez_compressed(tmp_path / "k" / f"kmnist-{part}-imgs.npz", IMAGES)
        np.savez_compressed(tmp_path / "k" / f"kmnist-{part}-labels.npz", LABELS)
    assert len(load(str(tmp_path / "k")).test) == 12


@pytest.mark.parametrize("damage", ["cut", "pickle", "claims", "text"])
def test_damaged_npy_files(tmp_path: Path, damage: str) -> None:
    np.save(tmp_path / "y_train.npy", LABELS)
    path = tmp_path / "x_train.npy"
    if damage == "pickle":
        np.save(path, np.array([{}], object), allow_pickle=True)
    elif damage == "text":
        path.write_text("hello")
    else:
        np.save(path, IMAGES)
        content = path.read_bytes()
        path.write_bytes(content[:-1] if damage == "cut" else content.replace(b"(12, 6, 6)", b"(9" + b"9" * 9))
    with pytest.raises(DataError, match=r"x_train\.npy: ") as caught:
        load(str(tmp_path))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_damaged_npz_makes_a_short_message(tmp_path: Path) -> None:
    import io
    import zipfile

    head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"1, " * 3000 + b"), }" + b" " * 100 + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(500):
            archive.writestr(f"{'name' * 20}{number}.npy", member)
    (tmp_path / "x.npz").write_bytes(file.getvalue())
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / "x.npz"))
    assert len(str(caught.value)) < 600
