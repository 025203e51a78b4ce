"""CSV files with a row for each image, as Kaggle has MNIST and others."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest

from gpucnn.data import load, load_csv
from gpucnn.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 4, 4), np.uint8)
LABELS = np.arange(20) % 2


def table(
    labels: object = LABELS, head: str | None = "label", images: np.ndarray = IMAGES, delimiter: str = ","
) -> str:
    pixels = [f"pixel{i}" for i in range(images[0].size)]
    lines = [] if head is None else [delimiter.join(filter(None, [head, *pixels]))]
    for label, image in zip(labels if labels is not None else [None] * len(images), images, strict=True):  # type: ignore[call-overload]
        lines.append(delimiter.join(map(str, [*([] if label is None else [label]), *image.ravel()])))
    return "\n".join(lines) + "\n"


def check(folder: Path, source: str) -> None:
    splits = load(str(folder / source))
    images, labels = splits.train[np.arange(20)]
    assert images.dtype == np.uint8
    assert np.array_equal(images[:, 0], IMAGES)
    assert np.array_equal(labels, LABELS)
    assert len(splits.test) == 6


@pytest.mark.parametrize("head", ["label", "Label", '"label"', None])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_train_and_test(tmp_path: Path, head: str | None, delimiter: str) -> None:
    (tmp_path / "mnist_train.csv").write_text(table(head=head, delimiter=delimiter))
    (tmp_path / "mnist_test.csv").write_text(table(LABELS[:6], head, IMAGES[:6], delimiter))
    check(tmp_path, "mnist_train.csv")
    check(tmp_path, "")


def test_as_kaggle_has_it(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("\ufeff" + table().replace("\n", "\r\n"), encoding="utf-8")
    (tmp_path / "test.csv").write_text(table(None, ""))
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = load(str(tmp_path))
    said = [str(warning.message) for warning in caught]
    assert said[0].endswith("test.csv has no labels and is not used")
    assert said[1] == "train: no test images: 4 are held out for testing, a fifth of each class"
    assert (len(splits.train), splits.train.image_shape) == (16, (1, 4, 4))


def test_a_label_elsewhere_texts_and_floats(tmp_path: Path) -> None:
    lines = ["p0,p1,p2,p3,class"] + [f"0.5,0.25,{i},-1,{'cat' if i % 2 else 'dog'}" for i in range(10)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="held out"):
        splits = load_csv(tmp_path / "a.csv")
    assert splits.train.class_names == ["cat", "dog"]
    image, label = splits.train[np.arange(1)]
    assert image.dtype == np.float32
    assert image[0, 0, 0].tolist() == [0.5, 0.25]
    assert label[0] == 1 - image[0, 0, 1, 0] % 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "0 pixels"),
        ("label\n1\n", "0 pixels"),
        ("label,a,b\n1,2,3\n", "square grey image, got 2 pixels"),
        ("label,a,b,c,d\n1,2,3,4\n", "no table of numbers"),
        ("label,a,b,c,d\n1,2,3,x,4\n", "no table of numbers"),
        ("label,a,b,c,d\n1,2,3,nan,4\n", "finite numbers"),
        ("label,a,b,c,d\n-1,2,3,4,4\n", "labels: expected 0 to"),
        ("a,b,c,d\n1,2,3,4\n", "one called label, got pixels alone"),
        ("\xff\xfe", "no table of numbers"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        load(str(tmp_path / "a.csv"))
    assert said in str(caught.value)
    assert "a.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_tables_and_arrays_are_read_or_refused(tmp_path: Path) -> None:
    rng, said = random.Random(0), []
    (tmp_path / "pair").mkdir()
    np.save(tmp_path / "pair" / "y.npy", LABELS)
    file = io.BytesIO()
    np.save(file, IMAGES / 255)
    for source, path, whole in (
        ("a.csv", tmp_path / "a.csv", table().encode()),
        ("pair", tmp_path / "pair" / "x.npy", file.getvalue()),
    ):
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(rng.choice([1, 2, 9])):
                damaged[rng.randrange(rng.choice([100, len(whole)]))] = rng.choice([0, 10, 34, 44, 57, 255])
            path.write_bytes(damaged[: rng.choice([len(whole), rng.randrange(len(whole))])])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    load(str(tmp_path / source))
                except DataError as error:
                    said.append(str(error))
    assert len(said) > 100
    assert max(map(len, said)) < 700
    assert not any("\n" in text for text in said)


def test_missing_table_and_several(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.csv: no such file"):
        load(str(tmp_path / "b.csv"))
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(table())
    with pytest.raises(DataError, match="none of them"):
        load(str(tmp_path))
