"""Reading images from CSV files in the format of Kaggle's MNIST: one row per image, its label and its pixels."""

from __future__ import annotations

import csv
import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpucnn import limits
from gpucnn.data.arrays import Role, datasets, splits_of
from gpucnn.data.dataset import ArrayDataset, Splits
from gpucnn.errors import DataError, shortened

LABEL_COLUMNS = ("label", "labels", "class", "target", "y")

SUFFIXES = (".csv", ".tsv")

COMPANION = {"train": "test", "Train": "Test", "TRAIN": "TEST"}
"""Names of the test file that belongs to a training file."""


def load_csv(path: Path) -> Splits:
    """Return the data set of a CSV file, and of the file beside it that has "test" instead of "train" in its name.

    The label's column is called label (or class, target, y) or, without a header, is the first; all others are the pixels of
    a square grey image, row by row. DataError for other tables. A file of test images without labels, such as Kaggle's, is
    skipped with a note. Without test images a fifth of each class is held out for testing.
    """
    return splits_of(path.stem, read_csv_files(path))


def read_csv_files(path: Path) -> dict[str, ArrayDataset]:
    """Return the parts of the data set of a CSV file and of the one beside it."""
    labels, images = read_csv(path)
    if labels is None:
        raise DataError.expected(str(path), "columns", "one called label", "pixels alone")
    found: dict[Role, NDArray[Any]] = {("train", "images"): images, ("train", "labels"): labels}
    other = _companion(path)
    if other is not None:
        labels, images = read_csv(other)
        if labels is None:
            warnings.warn(f"{other} has no labels and is not used", stacklevel=4)
        else:
            found |= {("test", "images"): images, ("test", "labels"): labels}
    return datasets(found, None, str(path))


def find_csv(folder: Path) -> Path | None:
    """Return the CSV file of a folder: its only one, or the one with "train" in its name."""
    files = [entry for entry in sorted(folder.iterdir()) if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    named = [file for file in files if _words(file) & {"train", "training"}]
    return (named or files)[0] if len(named) == 1 or len(files) == 1 else None


def read_csv(path: Path) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Return the labels (N,), integers or strings, or None if there are none, and the images (N, S, S) of a CSV file."""
    try:
        limits.check(str(path), "bytes", path.stat().st_size, limits.DATA_BYTES)
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline(LONGEST)
            delimiter = max(",;\t", key=head.count)
            names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter), [])]
            titled = not all(_is_number(name) for name in names[1:]) or names[:1] == ["label"]
            at = _label_column(names) if titled else 0
            pixels = [column for column in range(len(names)) if column != at]
            side = math.isqrt(len(pixels))
            if not pixels or side * side != len(pixels):
                expected = "a label and the pixels of a square grey image"
                raise DataError.expected(str(path), "columns", expected, f"{len(pixels)} pixels")
            if not titled:
                file.seek(0)
            begins = file.tell()
            table = np.loadtxt(
                file, np.float32, delimiter=delimiter, comments=None, usecols=pixels, ndmin=2, quotechar='"'
            )
            labels = None
            if at is not None:
                file.seek(begins)
                labels = _labels([row[at].strip() for row in csv.reader(file, delimiter=delimiter) if row])
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (ValueError, IndexError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: is no table of numbers ({shortened(error)}).") from None
    images = table.reshape(len(table), side, side)
    if images.size and images.min() >= 0 and images.max() <= 255 and (images == np.floor(images)).all():
        images = images.astype(np.uint8)
    return labels, images


LONGEST = 2**24
"""Longest line, in characters."""


def _label_column(names: list[str]) -> int | None:
    small = [name.lower() for name in names]
    return next((small.index(name) for name in LABEL_COLUMNS if name in small), None)


def _labels(texts: list[str]) -> NDArray[Any]:
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in texts):
        return np.array([int(text) for text in texts], np.int64)
    return np.array(texts)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _words(path: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", path.stem.lower()))


def _companion(path: Path) -> Path | None:
    for train, test in COMPANION.items():
        if train in path.name:
            other = path.with_name(test.join(path.name.rsplit(train, 1)))
            return other if other.is_file() else None
    return None
