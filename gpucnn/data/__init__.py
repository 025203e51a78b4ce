"""Data sets as uint8 arrays and integer labels. This package uses NumPy only and does not know tensors."""

from __future__ import annotations

import os
from dataclasses import replace

from gpucnn.data.arrays import channels_first, measured_of, splits_of
from gpucnn.data.augment import Augmentation
from gpucnn.data.builtin import DrawnDigits
from gpucnn.data.cifar import load_cifar10
from gpucnn.data.dataset import ArrayDataset, Dataset, Splits, Subset
from gpucnn.data.decoding import ImageSize, parse_image_size
from gpucnn.data.digits import draw_digits
from gpucnn.data.download import expanded, fetch
from gpucnn.data.draws import Draws
from gpucnn.data.files import array_files, load_idx_folder, load_npz, read_array_files, read_idx, read_npz
from gpucnn.data.find import NAMES, Found, find
from gpucnn.data.folder import load_pictures, load_test_pictures
from gpucnn.data.image_files import ImageFiles
from gpucnn.data.sources import SOURCES
from gpucnn.data.tables import load_csv, read_csv_files
from gpucnn.errors import DataError
from gpucnn.limits import applied

DIGITS_TRAIN, DIGITS_TEST = 60_000, 10_000


def load(
    source: str,
    image_size: ImageSize | None = None,
    like: tuple[int, int, int] | None = None,
    framing: str = "cropped",
    limits: bool = True,
) -> Splits:
    """Return the data set that ``source`` names.

    "digits" (built in: drawn on first use, then cached); "mnist", "fashion-mnist", "kmnist" or "cifar10", from a folder of
    that name under ``GPUCNN_DATA`` or else downloaded; an ``.npz`` with x_train, y_train, x_test, y_test; a ``.csv`` of
    labels and pixels; a folder with IDX files, CIFAR-10's binary files, ``.npy`` files, CSV files, or images
    (``load_pictures``, to which image_size, like and framing apply). Without test images a fifth of each class is held out.

    DataError if it is missing or damaged, for an image_size without images to scale, and with ``limits`` for a file that
    unpacks to far more than it should (``gpucnn.limits``).

    >>> load("digits").train.image_shape  # doctest: +SKIP
    (1, 28, 28)
    """
    with applied(limits):
        found = find(source) if image_size is None or source not in NAMES else None
        if image_size is not None and (found is None or found.kind != "pictures"):
            raise DataError.expected("data", "image_size", "a folder of images to scale", repr(source), "leave it out")
        assert found is not None
        if found.kind == "pictures":
            return load_pictures(found.path, image_size, like, framing)
        return _whole(found) or splits_of(*_parts(found))


def load_test(
    source: str,
    like: tuple[int, int, int],
    framing: str = "cropped",
    trained_on: str | None = None,
    limits: bool = True,
) -> tuple[str, Dataset]:
    """Return the name of a data set and the images to measure a network on: the test images, or all if there are none.

    like, framing: shape and framing of the network's images. trained_on: the source that the network was trained on; from
    this source only images that were held out are returned. Everything else is as in ``load``.
    """
    with applied(limits):
        found = find(source)
        own = trained_on is not None and (source == trained_on or _are_same(source, trained_on))
        if found.kind == "pictures":
            test = load_test_pictures(found.path, like, framing, held_out=own)
            return found.path.name or str(found.path), test
        splits = _whole(found)
        if splits is None and not own:
            name, sets, _ = _parts(found)
            return name, measured_of(name, sets)
        splits = splits or splits_of(*_parts(found))
        return splits.name, splits.test


def _are_same(source: str, other: str) -> bool:
    try:
        return os.path.samefile(expanded(source), expanded(other))
    except (OSError, ValueError):  # one is not there, or is no path
        return False


def _whole(found: Found) -> Splits | None:
    """Return a data set that always has test images; None for other kinds."""
    if found.kind == "digits":
        train, test = DrawnDigits("train", DIGITS_TRAIN, seed=0), DrawnDigits("test", DIGITS_TEST, seed=1)
        return Splits("digits", train, test)
    if found.kind == "cifar10":
        return load_cifar10(found.path)
    if found.kind == "idx":
        splits = load_idx_folder(found.path, None if found.name is None else SOURCES[found.name].class_names)
        return splits if found.name is None else replace(splits, name=found.name)
    return None


def _parts(found: Found) -> tuple[str, dict[str, ArrayDataset], str]:
    """Return the name, parts and framing of a data set made of arrays."""
    if found.kind == "npz":
        return (found.path.stem, *read_npz(found.path))
    if found.kind == "csv":
        return found.path.stem, read_csv_files(found.path), "centred"
    files = array_files(found.path) or {}
    return found.path.name or str(found.path), read_array_files(files, str(found.path)), "centred"


__all__ = [
    "NAMES", "SOURCES", "ArrayDataset", "Augmentation", "Dataset", "Draws", "ImageFiles", "Splits", "Subset",
    "channels_first", "draw_digits", "fetch", "load", "load_cifar10", "load_csv", "load_idx_folder", "load_npz",
    "load_pictures", "load_test", "parse_image_size", "read_idx",
]  # fmt: skip
