"""Find out what kind of data set a source names, without reading it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from gpucnn.data.cifar import ARCHIVE, PICKLED, is_cifar10
from gpucnn.data.download import expanded, fetch, offline_folder
from gpucnn.data.files import array_files, idx_home
from gpucnn.data.folder import is_picture_folder
from gpucnn.data.sources import SOURCES
from gpucnn.data.tables import SUFFIXES, find_csv
from gpucnn.errors import DataError, did_you_mean

NAMES = ("digits", *SOURCES)


class Found(NamedTuple):
    """A data set: its kind, its folder or file, and its name if it has one.

    kind: "digits", "idx", "cifar10", "pictures" (folders of images), "arrays" (.npy files), "csv" or "npz".
    """

    kind: str
    path: Path
    name: str | None = None


def find(source: str) -> Found:
    """Return what ``source`` names; DataError if there is no such data set. A data set known by name is downloaded."""
    if source == "digits":
        return Found("digits", Path())
    path = expanded(source)
    there = bool(source) and os.path.exists(path)  # unlike path.exists(), says no to a name that is too long to be one
    if source in SOURCES and not there:
        return _in_folder(offline_folder(source) or fetch(source), source)
    if there and os.path.isdir(path):
        try:
            return _in_folder(path, None)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if path.suffix.lower() == ".npz":
        return Found("npz", path)
    if path.suffix.lower() in SUFFIXES:
        return Found("csv", path)
    if path.suffix.lower() == ".npy":
        remedy = "name the folder with x_train.npy, y_train.npy, ..."
        raise DataError.expected("data", "source", "images and labels", f"{str(path)!r}, one array", remedy)
    raise DataError.expected(
        "data", "source", f"{', '.join(NAMES)}, a folder, an .npz, or a .csv",
        f"{source!r}, which is none of them", did_you_mean(source, NAMES) or "check the path",
    )  # fmt: skip


def _in_folder(folder: Path, name: str | None) -> Found:
    if is_cifar10(folder):
        return Found("cifar10", folder, name)
    if (home := idx_home(folder)) is not None or name is not None:
        return Found("idx", home or folder, name)
    if (folder / PICKLED).is_dir() or folder.name == PICKLED:
        remedy = f"fetch {ARCHIVE}, for instance with gpucnn data download cifar10"
        raise DataError.expected(str(folder), "content", "CIFAR-10's binary files", "the pickled ones", remedy)
    if is_picture_folder(folder):
        return Found("pictures", folder)
    if array_files(folder) is not None:
        return Found("arrays", folder)
    if (file := find_csv(folder)) is not None:
        return Found("csv", file)
    raise DataError.expected(
        str(folder), "content", f"MNIST's four IDX files, CIFAR-10's {ARCHIVE}, x_train.npy and so on, train.csv, "
        "or folders of images", "none of them", "images lie in train/CLASS and test/CLASS, or in CLASS",
    )  # fmt: skip
