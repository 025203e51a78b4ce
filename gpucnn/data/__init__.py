"""Data sets, as uint8 arrays and integer labels; this room knows NumPy and nothing of tensors."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from gpucnn.data.augment import Augmentation
from gpucnn.data.builtin import DrawnDigits
from gpucnn.data.cifar import ARCHIVE, is_cifar10, load_cifar10
from gpucnn.data.dataset import ArrayDataset, Dataset, Splits, Subset
from gpucnn.data.digits import draw_digits
from gpucnn.data.download import fetch, offline_folder
from gpucnn.data.files import IDX_NAMES, find_idx, load_idx_folder, load_npz, read_idx
from gpucnn.data.folder import is_picture_folder, load_pictures
from gpucnn.data.sources import SOURCES
from gpucnn.errors import DataError, did_you_mean

NAMES = ("digits", *SOURCES)
IDX_FILES = [file for files in IDX_NAMES.values() for file in files]
DIGITS_TRAIN, DIGITS_TEST = 60_000, 10_000


def load(
    source: str,
    image_size: int | None = None,
    like: tuple[int, int, int] | None = None,
    framing: str = "cropped",
) -> Splits:
    """Return the data set that ``source`` names.

    "digits" (built in: drawn when first asked for, then kept); "mnist", "fashion-mnist", "kmnist" or "cifar10", from a
    folder of that name under ``GPUCNN_DATA`` or else downloaded; an ``.npz`` with x_train, y_train, x_test, y_test; a
    folder with IDX files, with CIFAR-10's binary files, or with pictures (``load_pictures``, which the other arguments are
    for). DataError where it is missing or damaged, and for an image_size where there are no pictures to scale.

    >>> load("digits").train.image_shape  # doctest: +SKIP
    (1, 28, 28)
    """
    if image_size is not None and not _holds_pictures(source):
        raise DataError.expected("data", "image_size", "a folder of pictures to scale", repr(source), "leave it out")
    if source == "digits":
        return Splits("digits", DrawnDigits("train", DIGITS_TRAIN, seed=0), DrawnDigits("test", DIGITS_TEST, seed=1))
    path = Path(source).expanduser()
    if source in SOURCES and not os.path.exists(path):
        return replace(_load_folder(offline_folder(source) or fetch(source), source), name=source)
    if os.path.isdir(path):  # unlike path.is_dir(), says no to a name that is too long to be one
        return load_pictures(path, image_size, like, framing) if _holds_pictures(source) else _load_folder(path)
    if path.suffix == ".npz":
        return load_npz(path)
    raise DataError.expected(
        "data", "source", f"{', '.join(NAMES)}, a folder, or an .npz", f"{str(path)!r}, which is neither",
        did_you_mean(source, NAMES) or "check the path",
    )  # fmt: skip


def _holds_pictures(source: str) -> bool:
    path = Path(source).expanduser()
    known = os.path.isdir(path) and (any(find_idx(path, name) for name in IDX_FILES) or is_cifar10(path))
    return source != "digits" and os.path.isdir(path) and not known and is_picture_folder(path)


def _load_folder(folder: Path, name: str | None = None) -> Splits:
    """Return the data set of a folder with IDX or CIFAR-10's files; its classes are called as those of ``name``."""
    if is_cifar10(folder):
        return load_cifar10(folder)
    if any(find_idx(folder, file) for file in IDX_FILES) or name is not None:
        return load_idx_folder(folder, None if name is None else SOURCES[name].class_names)
    raise DataError.expected(
        str(folder), "content", f"MNIST's four IDX files, CIFAR-10's {ARCHIVE}, or folders of pictures", "none of them",
        "pictures lie in train/CLASS and test/CLASS, or in CLASS",
    )  # fmt: skip


__all__ = [
    "NAMES", "SOURCES", "ArrayDataset", "Augmentation", "Dataset", "Splits", "Subset", "draw_digits", "fetch", "load",
    "load_cifar10", "load_idx_folder", "load_npz", "load_pictures", "read_idx",
]  # fmt: skip
